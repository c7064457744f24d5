"""What becomes of every field of OpenAI's decisions: its tables are compared with the openai SDK's own types.

Images are refused by name, wherever they may stand.
"""

from collections.abc import Iterable
from typing import Any

from tokenyard.http.checks import Check, Schema, anything, array, described, instance, or_null, string
from tokenyard.http.errors import invalid
from tokenyard.http.fields import HARMLESS, Field

MAX_QUESTIONS = 400
MIN_CHOICES, MAX_CHOICES = 2, 255
"""OpenAI's limits."""
MAX_LEVELS = 255
"""OpenAI names none; as for choices."""
MAX_ITEMS = 4096
"""As of a conversation's messages."""
MAX_JSON_DEPTH, MAX_JSON_VALUES = 32, 10_000
"""OpenAI's limits of an input_json. Its 256 KiB are left to the context length and the body's limit."""
MAX_TEXT = 1 << 26
"""Characters: the body's limit comes first."""

Table = dict[str, Field]

CHOSEN = Field(anything)
"""It says which table is the item's."""

text = string(0, MAX_TEXT)


def item(table: Table) -> Check:
    """An object's honoured fields that are present, checked."""
    properties = {name: or_null(field.honoured.schema) for name, field in table.items() if field.honoured is not None}

    @described({"type": "object", "properties": properties})
    def check(value: Any, param: str) -> dict[str, Any]:
        found = {}
        for name, field in table.items():
            given = value.get(name)
            if given is not None and field.honoured is not None:
                found[name] = field.honoured(given, f"{param}.{name}")
        return found

    return check


def required(check: Check, *names: str) -> Check:
    """Of an item's check: these fields must be there."""

    @described({**check.schema, "required": list(names)})
    def checked(value: Any, param: str) -> Any:
        found = check(value, param)
        for name in names:
            if name not in found:
                invalid(f"{param}.{name}", "is required")
        return found

    return checked


def _of_kind(name: str, kind: str, schema: Schema, must: bool) -> Schema:
    """An object of one kind."""
    kinds: Schema = {"type": "object", "properties": {name: {"const": kind}}, "required": [name] if must else []}
    return {"allOf": [kinds, schema]}


def one_of(name: str, checks: dict[str, Check], default: str | None = None) -> Check:
    """An object whose field of this name says which check it must pass."""

    kinds = [
        _of_kind(name, kind, check.schema, kind != default) for kind, check in checks.items() if check is not _no_images
    ]

    @described({"anyOf": kinds})
    def check(value: Any, param: str) -> Any:
        if type(value) is not dict:
            invalid(param, f"must be an object, not {type(value).__name__}")
        kind = value.get(name, default)
        if type(kind) is not str or kind not in checks:
            invalid(f"{param}.{name}", f"must be one of {', '.join(checks)}, not {str(kind)[:60]!r}")
        return {name: kind, **checks[kind](value, param)}

    return check


def either(words: str, of_text: Check, of_list: Check) -> Check:
    """A string or a list."""
    kinds = instance(str, list, words=words)

    @described({"anyOf": [of_text.schema, of_list.schema]})
    def check(value: Any, param: str) -> Any:
        kinds(value, param)
        return of_text(value, param) if type(value) is str else of_list(value, param)

    return check


@described({"not": {}})
def _no_images(_: Any, param: str) -> Any:
    invalid(param, "is an image, and no model here sees any")


@described({"type": ["object", "array"], "items": {"type": "object"}})
def _data(value: Any, param: str) -> Any:
    """An input_json's: an object, or a list of objects, of bounded size."""
    instance(dict, list, words="an object or a list of objects")(value, param)
    if type(value) is list:
        array(instance(dict, words="an object"))(value, param)
    count, depth, level = 0, 0, [value]
    while level:
        count, depth = count + len(level), depth + 1
        if depth > MAX_JSON_DEPTH or count > MAX_JSON_VALUES:
            invalid(param, f"must have at most {MAX_JSON_DEPTH} levels and {MAX_JSON_VALUES:,} values")
        level = [inner for one in level for inner in _inside(one)]
    return value


def _inside(value: Any) -> Iterable[Any]:
    if type(value) is dict:
        return value.values()
    return value if type(value) is list else ()


TEXT_PART: Table = {"text": Field(text), "type": CHOSEN, "prompt_cache_breakpoint": HARMLESS}
JSON_PART: Table = {"data": Field(_data), "type": CHOSEN}
OUTPUT_TEXT: Table = {"text": Field(text), "type": CHOSEN}
REFUSAL: Table = {"refusal": Field(text), "type": CHOSEN}

_text_part = required(item(TEXT_PART), "text")
_json_part = required(item(JSON_PART), "data")
_any_part = one_of("type", {"input_text": _text_part, "input_image": _no_images, "input_json": _json_part})
_output_part = one_of("type", {"input_text": _text_part, "input_image": _no_images})
_said_part = one_of(
    "type", {"output_text": required(item(OUTPUT_TEXT), "text"), "refusal": required(item(REFUSAL), "refusal")}
)
_plain_part = one_of("type", {"input_text": _text_part})


def content(part: Check) -> Check:
    """Text, or a list of such parts."""
    return either("a string or a list of parts", text, array(part, high=MAX_ITEMS))


def _message(part: Check) -> Table:
    return {"content": Field(content(part)), "role": CHOSEN, "type": CHOSEN}


def _call(payload: str) -> Table:
    return {
        payload: Field(text),
        "call_id": Field(string(1, 512)),
        "name": Field(string(1, 512)),
        "type": CHOSEN,
        "id": HARMLESS,
        "namespace": Field(string(0, 512)),
        "status": HARMLESS,
    }


USER_MESSAGE, PLAIN_MESSAGE = _message(_any_part), _message(_plain_part)
ASSISTANT_MESSAGE: Table = {**_message(_said_part), "phase": HARMLESS}
FUNCTION_CALL, CUSTOM_CALL = _call("arguments"), _call("input")
CALL_OUTPUT: Table = {
    "call_id": Field(string(1, 512)),
    "output": Field(content(_output_part)),
    "type": CHOSEN,
    "id": HARMLESS,
    "status": HARMLESS,
}

_message_item = one_of(
    "role",
    {
        "user": required(item(USER_MESSAGE), "content"),
        "developer": required(item(PLAIN_MESSAGE), "content"),
        "system": required(item(PLAIN_MESSAGE), "content"),
        "assistant": required(item(ASSISTANT_MESSAGE), "content"),
    },
)
_output_item = required(item(CALL_OUTPUT), "call_id", "output")
_input_item = one_of(
    "type",
    {
        "message": _message_item,
        "function_call": required(item(FUNCTION_CALL), "arguments", "call_id", "name"),
        "function_call_output": _output_item,
        "custom_tool_call": required(item(CUSTOM_CALL), "input", "call_id", "name"),
        "custom_tool_call_output": _output_item,
    },
    "message",
)

CHOICE: Table = {
    "value": Field(instance(str, bool, words="a string, true or false")),
    "description": Field(text),
}
LEVEL: Table = {"label": Field(text), "description": Field(text)}

_ASKED: Table = {"instructions": Field(content(_any_part)), "name": Field(text), "type": CHOSEN}
PREDICATE: Table = _ASKED


def _object(check: Check) -> Check:
    kinds = instance(dict, words="an object")
    return Check(lambda value, param: check(kinds(value, param), param), check.schema)


CHOICES: Table = {
    **_ASKED,
    "choices": Field(array(_object(required(item(CHOICE), "value")), MIN_CHOICES, MAX_CHOICES)),
}
SCORE: Table = {**_ASKED, "levels": Field(array(_object(required(item(LEVEL), "label")), 1, MAX_LEVELS))}

_question = one_of(
    "type",
    {
        "predicate": required(item(PREDICATE), "instructions"),
        "choice": required(item(CHOICES), "instructions", "choices"),
        "score": required(item(SCORE), "instructions", "levels"),
    },
)

DECISIONS: Table = {
    "model": Field(string(1, 512)),
    "input": Field(either("a string or a list of items", text, array(_input_item, 1, MAX_ITEMS))),
    "questions": Field(array(_question, 1, MAX_QUESTIONS)),
    "prompt_cache_key": HARMLESS,
    "prompt_cache_options": HARMLESS,
    "safety_identifier": HARMLESS,
}
"""POST /v1/decisions."""
