"""Strict checks of JSON values, each with words a client can act on. Knows nothing of what the fields mean.

A check takes a value and its dotted path and returns it typed, or raises TokenyardError naming the path. Nothing is
coerced: "5" is no number, true is no integer. Each check carries a JSON Schema of what it lets through, from which the
OpenAPI document is made: never stricter than the check, and as strict as a schema can say it.
"""

import math
from collections.abc import Callable, Mapping
from reprlib import Repr
from typing import Any, Generic, TypeVar

from tokenyard.broker.params import MAX_LISTED_IDS, MAX_RUN_TOKENS, MAX_RUNS, SequenceBias
from tokenyard.http.errors import invalid

Checked = TypeVar("Checked", covariant=True)
Schema = dict[str, Any]
"""A JSON Schema, of the dialect that OpenAPI 3.1 has (2020-12)."""


class TypedCheck(Generic[Checked]):
    """A check that returns values of one type."""

    def __init__(self, run: Callable[[Any, str], Checked], schema: Schema) -> None:
        self._run = run
        self.schema = schema
        self.__doc__ = run.__doc__

    def __call__(self, value: Any, param: str) -> Checked:
        return self._run(value, param)


Check = TypedCheck[Any]


def described(schema: Schema) -> Callable[[Callable[[Any, str], Checked]], TypedCheck[Checked]]:
    """Makes a check of a function: what it lets through reads so as a JSON Schema."""
    return lambda run: TypedCheck(run, schema)


MAX_CHOICES = 128
"""OpenAI's limit of `n`."""
MAX_STOPS = 16
"""OpenAI takes 4; each costs a search per token, so some end is needed."""
MAX_LOGIT_BIAS = 1024
"""One row's sparse addition in the sampler; OpenAI's own documentation names no limit, practice is 300."""
MAX_STOP_TOKEN_IDS = 256
"""They are masked one by one until min_tokens is reached."""


_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def _shown(value: Any) -> str:
    """A value in words, short, however large it is."""
    text = _short.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@described({})
def anything(value: Any, param: str) -> Any:
    """For fields whose inside is checked elsewhere."""
    return value


@described({"type": "boolean"})
def boolean(value: Any, param: str) -> Any:
    if type(value) is not bool:
        invalid(param, f"must be true or false, not {_shown(value)}")
    return value


def number(low: float, high: float, above: bool = False) -> Check:
    """A finite number in [low, high], or in (low, high] with `above`."""
    words = f"above {low} and at most {high}" if above else f"from {low} to {high}"

    @described({"type": "number", ("exclusiveMinimum" if above else "minimum"): low, "maximum": high})
    def check(value: Any, param: str) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            invalid(param, f"must be a number {words}, not {_shown(value)}")
        if not low <= value <= high or (above and value == low):
            invalid(param, f"must be {words}, not {_shown(value)}")
        return float(value)

    return check


def integer(low: int, high: int) -> Check:
    """A whole number in [low, high]; 1.0 is none."""

    @described({"type": "integer", "minimum": low, "maximum": high})
    def check(value: Any, param: str) -> int:
        if type(value) is not int:
            invalid(param, f"must be an integer, not {_shown(value)}")
        if not low <= value <= high:
            words = f"at least {low}" if value < low else f"at most {high}"
            invalid(param, f"must be {words}, not {value}")
        return value

    return check


def string(low: int, high: int) -> Check:
    """Text of `low` to `high` characters."""

    @described({"type": "string", "minLength": low, "maxLength": high})
    def check(value: Any, param: str) -> str:
        if type(value) is not str:
            invalid(param, f"must be a string, not {_shown(value)}")
        if not low <= len(value) <= high:
            invalid(param, f"must have {low} to {high} characters, not {len(value)}")
        return value

    return check


def one_of(*values: str) -> Check:
    """One of these strings."""

    @described({"enum": list(values)})
    def check(value: Any, param: str) -> str:
        if type(value) is not str or value not in values:
            invalid(param, f"must be one of {', '.join(values)}, not {_shown(value)}")
        return value

    return check


JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
"""JSON Schema's names of Python's."""


def instance(*kinds: type, words: str) -> Check:
    """Any value of these JSON types."""

    @described({"type": [JSON_TYPES[kind] for kind in kinds]})
    def check(value: Any, param: str) -> Any:
        if type(value) not in kinds:
            invalid(param, f"must be {words}, not {_shown(value)}")
        return value

    return check


def array(item: Check, low: int = 0, high: int | None = None) -> Check:
    """A list whose items pass `item`."""

    schema: Schema = {"type": "array", "items": item.schema, "minItems": low}
    if high is not None:
        schema["maxItems"] = high

    @described(schema)
    def check(value: Any, param: str) -> list[Any]:
        if type(value) is not list:
            invalid(param, f"must be a list, not {_shown(value)}")
        if len(value) < low:
            invalid(param, "must not be empty" if low == 1 else f"must have at least {low} items")
        if high is not None and len(value) > high:
            invalid(param, f"must have at most {high} items, not {len(value)}")
        return [item(one, f"{param}.{index}") for index, one in enumerate(value)]

    return check


def or_null(schema: Schema) -> Schema:
    """What also allows null, which means absent wherever it stands for a field."""
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}


def mapping(items: dict[str, Check]) -> Check:
    """An object; the named items are checked, others let through and left out."""

    @described({"type": "object", "properties": {name: or_null(item.schema) for name, item in items.items()}})
    def check(value: Any, param: str) -> dict[str, Any]:
        if type(value) is not dict:
            invalid(param, f"must be an object, not {_shown(value)}")
        return {key: item(value[key], f"{param}.{key}") for key, item in items.items() if value.get(key) is not None}

    return check


_one_stop = string(1, 1024)
_stop_list = array(_one_stop, high=MAX_STOPS)


@described({"anyOf": [_one_stop.schema, _stop_list.schema]})
def stop_strings(value: Any, param: str) -> list[str]:
    """One non-empty string or a list of them."""
    if type(value) is str:
        return [_one_stop(value, param)]
    if type(value) is not list:
        invalid(param, f"must be a string or a list of strings, not {_shown(value)}")
    stops: list[str] = _stop_list(value, param)
    return stops


_token_id = integer(0, (1 << 32) - 1)
token_ids = array(_token_id, high=MAX_STOP_TOKEN_IDS)
"""A short list of token ids; the vocabulary's end is checked once the model is known."""
listed_token_ids = array(_token_id, high=MAX_LISTED_IDS)
"""A long one."""
some_token_ids = array(_token_id, 1, MAX_LISTED_IDS)
"""A long one that is not empty."""
_token_run = array(_token_id, 1, MAX_RUN_TOKENS)
token_runs = array(_token_run, high=MAX_RUNS)
"""A list of lists of token ids, each a word."""

_sequence_bias = number(-1e9, 1e9)
"""Beyond every logit, and far from the end of float32."""


_PAIR: Schema = {"items": False, "minItems": 2, "maxItems": 2}
"""With two prefixItems, exactly these."""


def _pair(value: Any, param: str, words: str) -> Any:
    if type(value) is not list or len(value) != 2:
        invalid(param, f"must be {words}, not {_shown(value)}")
    return value


@described(
    {
        "type": "array",
        "maxItems": MAX_RUNS,
        "items": {"type": "array", "prefixItems": [_token_run.schema, _sequence_bias.schema], **_PAIR},
    }
)
def sequence_bias(value: Any, param: str) -> list[SequenceBias]:
    """A list of [[token ids], number], as transformers takes it: of equal token ids the last one counts."""
    biases: dict[tuple[int, ...], float] = {}
    for index, one in enumerate(array(anything, high=MAX_RUNS)(value, param)):
        name = f"{param}.{index}"
        ids, bias = _pair(one, name, "a list of token ids and a number")
        biases[tuple(_token_run(ids, f"{name}.0"))] = _sequence_bias(bias, f"{name}.1")
    return [SequenceBias(list(ids), bias) for ids, bias in biases.items()]


_decay_start, _decay_factor = integer(0, (1 << 63) - 1), number(0, 100, above=True)


@described({"type": "array", "prefixItems": [_decay_start.schema, _decay_factor.schema], **_PAIR})
def length_decay(value: Any, param: str) -> tuple[int, float]:
    """[start, factor], as transformers takes it."""
    start, factor = _pair(value, param, "[start, factor]")
    return _decay_start(start, f"{param}.0"), _decay_factor(factor, f"{param}.1")


_bias = number(-100, 100)


@described(
    {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,10}$"},
        "additionalProperties": _bias.schema,
        "maxProperties": MAX_LOGIT_BIAS,
    }
)
def logit_bias(value: Any, param: str) -> dict[int, float]:
    """An object from token ids, as strings of digits, to numbers from -100 to 100."""
    if type(value) is not dict:
        invalid(param, f"must be an object from token ids to numbers, not {_shown(value)}")
    if len(value) > MAX_LOGIT_BIAS:
        invalid(param, f"must have at most {MAX_LOGIT_BIAS} entries, not {len(value)}")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            invalid(param, f"must have token ids as keys, not {_shown(key)}")
        biases[int(key)] = _bias(bias, f"{param}.{key}")
    return biases


def whole_number(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """An integer of a URL's query, where all values are texts."""
    raw = query.get(name)
    if raw is None:
        return default
    if not (raw.isascii() and raw.removeprefix("-").isdigit() and len(raw) < 20) or not low <= int(raw) <= high:
        invalid(name, f"must be an integer from {low} to {high}, not {raw[:40]!r}")
    return int(raw)
