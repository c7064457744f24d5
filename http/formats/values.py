"""Values of arguments: JSON, and what a text means where the schema says of which type it is."""

import json
from collections.abc import Mapping
from typing import Any

import orjson

Schema = Mapping[str, Any]
"""JSON Schema of a tool's parameters, or of one of them; nobody has checked it."""

MAX_DEPTH = 200
"""Of lists and objects in each other: below orjson's limit of 254, with which they are written again."""

_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}
_BOUND = {"enum", "const", "pattern", "format", "minLength", "maxLength"}
_PYTHON = {"True": True, "False": False, "None": None}
"""Constants as models write them that think in Python."""


def loads(text: str) -> Any:
    """The value of JSON, big integers exact; None, too, for what is none or nested too deeply."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        return value if text.count("[") + text.count("{") < MAX_DEPTH or _depth(value) < MAX_DEPTH else None
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _depth(value: Any) -> int:
    """How deeply lists and objects are nested."""
    depth, level = 0, [value]
    while level:
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for values in inner for value in values]
        depth += 1
    return depth


def dumps(value: Any) -> str:
    """As JSON, also what orjson has no words for: integers of more than 64 bits."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value)


def property_of(parameters: Schema, name: str) -> Schema:
    """The schema of one parameter; empty if nothing is known of it."""
    properties = parameters.get("properties")
    schema = properties.get(name) if isinstance(properties, dict) else None
    return schema if isinstance(schema, dict) else {}


def is_free_text(schema: Schema) -> bool:
    """Whether a value can be any text, white space at its ends included, or nothing says that it is anything else."""
    return _types(schema) <= {"string"} and not schema.keys() & _BOUND


def value_of(text: str, schema: Schema) -> Any:
    """What the text means as one of the schema's types; the text itself if it is none of them."""
    value = _PYTHON[text] if text in _PYTHON else loads(text)
    if value is None and text not in ("null", "None"):
        return text
    types = _types(schema)
    if "integer" in types and type(value) is float and value.is_integer():
        value = int(value)
    return value if any(type(value) in _TYPES.get(name, ()) for name in types) else text


def _types(schema: Schema, depth: int = 0) -> set[str]:
    """Names of the types that a value may have; of deeper schemas than clients send, those near the top."""
    declared = schema.get("type")
    types = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        types |= {name for name in declared if isinstance(name, str)}
    for word in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(word)
        if isinstance(choices, list) and depth < 8:
            types |= {name for one in choices if isinstance(one, dict) for name in _types(one, depth + 1)}
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if not types and isinstance(values, list):
        types |= {name for value in values for name, kinds in _TYPES.items() if type(value) in kinds}
        types |= {"string"} if any(isinstance(value, str) for value in values) else set()
    if schema.get("$ref") and not types:
        types.add("object")
    if schema.get("nullable"):
        types.add("null")
    return types
