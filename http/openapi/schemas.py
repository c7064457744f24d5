"""From field tables and examples to JSON Schemas. Knows no routes."""

from typing import Any

from tokenyard.http.checks import JSON_TYPES, Schema, or_null
from tokenyard.http.fields import Field


def of_table(table: dict[str, Field], required: tuple[str, ...]) -> Schema:
    """A request body whose fields this table decides. Fields that are in no table are let through."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {name: _of_field(field, name in required) for name, field in table.items()},
    }


def _of_field(field: Field, is_required: bool) -> Schema:
    if field.honoured is not None:
        schema = field.honoured.schema if is_required else or_null(field.honoured.schema)
        words = field.honoured.__doc__
        return {**schema, "description": " ".join(words.split())} if words else schema
    if field.refused is not None:
        neutral: list[Any] = []
        for value in (*field.neutral, None):
            if value not in neutral:  # 1 and 1.0 are one value in JSON
                neutral.append(value)
        return {"enum": neutral, "description": f"Refused with any other value: it {field.why}."}
    return {"description": "Accepted; the answer is the same without it."}


def of_examples(examples: list[Any]) -> Schema:
    """What all the examples look like: types, and fields that each has. Null says that there may be anything."""
    kinds = {JSON_TYPES.get(type(one)) for one in examples}
    if None in kinds or not examples:
        return {}
    if kinds == {"object"}:
        names = {name: None for one in examples for name in one}
        return {
            "type": "object",
            "required": [name for name in names if all(name in one for one in examples)],
            "properties": {name: of_examples([one[name] for one in examples if name in one]) for name in names},
        }
    if kinds == {"array"}:
        return {"type": "array", "items": of_examples([item for one in examples for item in one])}
    return {"type": sorted(kind for kind in kinds if kind)}
