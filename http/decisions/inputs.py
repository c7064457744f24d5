"""From OpenAI's input and questions, checked by fields.py, to the state and questions that prompts are made of."""

from typing import Any

import orjson

from tokenyard.http.decisions.questions import Question
from tokenyard.http.decisions.reader import Reader
from tokenyard.http.errors import invalid

CALLS = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}
"""What each output answers."""


def read_state(given: str | list[Any]) -> str | list[Any]:
    """Text as it is; items with their contents as plain as can be, for a template to write as JSON.

    Raises TokenyardError for an output whose call is not there.
    """
    if isinstance(given, str):
        return given
    called: set[tuple[str, str]] = set()
    for index, item in enumerate(given):
        kind = item["type"]
        if kind in CALLS and (CALLS[kind], item["call_id"]) not in called:
            invalid(f"input.{index}.call_id", f"names no {CALLS[kind]} before it")
        if "call_id" in item:
            called.add((kind, item["call_id"]))
    return [_plain(item) for item in given]


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] == "message":
        return {"role": item["role"], "content": _contents(item["content"])}
    return {key: _contents(value) for key, value in item.items()}


def _contents(given: Any) -> Any:
    """Of one part, what is in it; of several, a list."""
    if not isinstance(given, list):
        return given
    parts = [part["data"] if part["type"] == "input_json" else part.get("text", part.get("refusal")) for part in given]
    return parts[0] if len(parts) == 1 else parts


def read_question(given: dict[str, Any], param: str, reader: Reader) -> Question:
    """Raises TokenyardError where the model has too few labels for the options."""
    name, instructions = given.get("name", ""), _text(given["instructions"])
    if given["type"] == "predicate":
        meanings = {"true": "The statement is true", "false": "The statement is false"}
        options = reader.config.noul_options
        descriptions: list[Any] = [meanings[option] for option in options]
        return Question(name, "noul", instructions, options, reader.labels("noul", 2), descriptions)
    if given["type"] == "choice":
        values = [choice["value"] for choice in given["choices"]]
        if len({(type(value), value) for value in values}) < len(values):
            invalid(f"{param}.choices", "must each be unique")
        options = [value if isinstance(value, str) else str(value).lower() for value in values]
        descriptions = [choice.get("description") for choice in given["choices"]]
        field = "choices"
    else:
        levels = given["levels"]
        options = [str(index) for index in range(len(levels))]
        descriptions = [": ".join(filter(None, (level["label"], level.get("description")))) for level in levels]
        field = "levels"
    labels = reader.labels(given["type"], len(options))
    if len(labels) < len(options):
        invalid(f"{param}.{field}", f"must be at most {len(labels)}: this model has no more labels of one token")
    return Question(name, given["type"], instructions, options, labels, descriptions)


def _text(given: str | list[Any]) -> str:
    """Instructions as one text."""
    contents = _contents(given)
    parts = contents if isinstance(contents, list) else [contents]
    return "\n".join(part if isinstance(part, str) else orjson.dumps(part).decode() for part in parts)
