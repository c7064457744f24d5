"""Responses' objects and events held against the types of the openai and openresponses-types packages.

Each check returns what the types do not know of it, as paths; whatever the types refuse raises.
"""

from collections.abc import Iterator
from typing import Any, get_args

import openresponses_types.types as open_types
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel
from strict import unknown_fields

EVENTS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}
"""The openai package's event types, by name."""

OPEN_EVENTS: dict[str, type[BaseModel]] = {
    str(next(iter(kind.model_fields["type"].annotation)).value): kind  # type: ignore[union-attr, arg-type]
    for name, kind in vars(open_types).items()
    if name.endswith("StreamingEvent")
}
"""Those of openresponses-types, whose `type` is an enum of one."""


def unknown_to_openai(value: dict[str, Any]) -> set[str]:
    """Of a response object or an event."""
    kind = EVENTS[value["type"]] if "sequence_number" in value else Response
    return set(unknown_fields(kind.model_validate(value, strict=True)))


def unknown_to_openresponses(value: dict[str, Any]) -> set[str]:
    """Of a response object or an event."""
    kind = OPEN_EVENTS[value["type"]] if "sequence_number" in value else open_types.ResponseResource
    dumped = kind.model_validate(value).model_dump(mode="json", by_alias=True, exclude_unset=True)
    return set(_lost(value, dumped, ""))


def _lost(given: Any, dumped: Any, path: str) -> Iterator[str]:
    """Keys of `given` that validation dropped."""
    if isinstance(given, dict) and isinstance(dumped, dict):
        for name, one in given.items():
            if name not in dumped:
                yield f"{path}{name}"
            else:
                yield from _lost(one, dumped[name], f"{path}{name}.")
    elif isinstance(given, list) and isinstance(dumped, list):
        for one, other in zip(given, dumped, strict=True):
            yield from _lost(one, other, path)
