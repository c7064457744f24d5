"""Strategies for every message of the contract, built from its annotations."""

from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

Leaves = Mapping[Any, st.SearchStrategy[Any]]
"""What to draw for the types that have no parts."""

anything = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9) | st.binary(max_size=9)

LEAVES: Leaves = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=9),
    bytes: st.binary(max_size=9),
    type(None): st.none(),
    Any: anything | st.lists(anything, max_size=3),
}


def values(hint: Any, leaves: Leaves = LEAVES) -> st.SearchStrategy[Any]:
    """Values of an annotation: a message, a structure inside one, or the type of a field."""
    if hint in leaves:
        return leaves[hint]
    if hasattr(hint, "_fields"):
        hints = get_type_hints(hint)
        return st.builds(hint, *[values(hints[name], leaves) for name in hint._fields])
    parts = [values(part, leaves) for part in get_args(hint)]
    if get_origin(hint) is list:
        return st.lists(parts[0], max_size=3)
    if get_origin(hint) is dict:
        return st.dictionaries(parts[0], parts[1], max_size=3)
    assert parts, f"the contract has a new kind of field: {hint}"
    return st.one_of(parts)
