"""Strategies for every message of the contract, built from its annotations: well-typed ones, and nearly so."""

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from tokenyard.broker.ranges import Keys, Length, Parts, Range

Leaves = Mapping[Any, st.SearchStrategy[Any]]
"""What to draw for the types that have no parts, and for fields that are limited by ranges.py."""

anything = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9) | st.binary(max_size=9)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)

LEAVES: Leaves = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=9),
    bytes: st.binary(max_size=9),
    type(None): st.none(),
    Any: json_like,
}


def values(hint: Any, leaves: Leaves = LEAVES) -> st.SearchStrategy[Any]:
    """Values of an annotation: a message, a structure inside one, or the type of a field."""
    if hint in leaves:
        return leaves[hint]
    if get_origin(hint) is Annotated:
        return _limited(*get_args(hint), leaves)
    if hasattr(hint, "_fields"):
        hints = get_type_hints(hint, include_extras=True)
        return st.builds(hint, *[values(hints[name], leaves) for name in hint._fields])
    parts = [values(part, leaves) for part in get_args(hint)]
    if get_origin(hint) is list:
        return st.lists(parts[0], max_size=3)
    if get_origin(hint) is dict:
        return st.dictionaries(parts[0], parts[1], max_size=3)
    assert parts, f"the contract has a new kind of field: {hint}"
    return st.one_of(parts)


def _limited(hint: Any, limit: Any, leaves: Leaves) -> st.SearchStrategy[Any]:
    if isinstance(limit, Keys):
        known = {name: values(one, leaves) for name, one in limit.of}
        return st.fixed_dictionaries({}, optional=known)
    if isinstance(limit, Parts):
        return st.tuples(*[values(one, leaves) for one in limit.of]).map(list)
    if isinstance(limit, Length) and hint is bytes:
        lengths = [one for one in range(limit.least, min(limit.most, 24) + 1) if one % limit.unit == 0]
        return st.sampled_from(lengths).flatmap(lambda length: st.binary(min_size=length, max_size=length))
    if isinstance(limit, Length):
        return st.lists(values(get_args(hint)[0], leaves), min_size=limit.least, max_size=3)
    assert isinstance(limit, Range)
    if hint is int:
        return st.integers(int(limit.least), int(limit.most))
    return st.floats(max(limit.least, -1e300), min(limit.most, 1e300)) | st.sampled_from([limit.least, limit.most])


def is_typed(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says, to the last part; written apart from codec.py."""
    if get_origin(hint) is Annotated:
        plain, limit = get_args(hint)
        return is_typed(value, plain) and _is_within(value, limit)
    if hint is Any:
        return _is_json(value)
    if hasattr(hint, "_fields"):
        hints = get_type_hints(hint, include_extras=True)
        return type(value) is hint and all(
            is_typed(one, hints[name]) for one, name in zip(value, hint._fields, strict=True)
        )
    args = get_args(hint)
    if get_origin(hint) is list:
        return type(value) is list and all(is_typed(one, args[0]) for one in value)
    if get_origin(hint) is dict:
        return type(value) is dict and all(is_typed(k, args[0]) and is_typed(v, args[1]) for k, v in value.items())
    if args:
        return any(is_typed(value, arg) for arg in args)
    if hint is float:
        return type(value) is float and value == value
    return type(value) is hint and (hint is not int or -(2**63) <= value < 2**64)


def _is_within(value: Any, limit: Any) -> bool:
    if isinstance(limit, Range):
        return bool(limit.least <= value <= limit.most)
    if isinstance(limit, Length):
        return limit.least <= len(value) <= limit.most and len(value) % limit.unit == 0
    if isinstance(limit, Keys):
        return all(is_typed(one, dict(limit.of).get(key, Any)) for key, one in value.items())
    return len(value) == len(limit.of) and all(is_typed(one, hint) for one, hint in zip(value, limit.of, strict=True))


def _is_json(value: Any) -> bool:
    if type(value) is list:
        return all(map(_is_json, value))
    if type(value) is dict:
        return all(type(key) is str and _is_json(one) for key, one in value.items())
    if type(value) is float:
        return -inf < value < inf
    return value is None or type(value) in (bool, int, str, bytes)
