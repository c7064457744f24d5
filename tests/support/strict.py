"""Answers held against the types of the clients' own packages, which would let anything pass by themselves."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter


def validated(kind: Any, value: Any) -> Any:
    """`value` as this type; fails where a field is missing, of another type, or not one that the type knows."""
    model = TypeAdapter(kind).validate_python(value)
    unknown = list(unknown_fields(model))
    assert not unknown, f"{kind} does not know {unknown}"
    return model


def unknown_fields(model: BaseModel, path: str = "") -> Iterator[str]:
    """Paths of fields that the model was given and its type does not know."""
    yield from (f"{path}{name}" for name in model.model_extra or ())
    for name in type(model).model_fields:
        one = getattr(model, name)
        for inner in one if isinstance(one, list) else [one]:
            if isinstance(inner, BaseModel):
                yield from unknown_fields(inner, f"{path}{name}.")
