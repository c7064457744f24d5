"""What becomes of every field of a Responses request, as http/fields.py says it for the older endpoints.

RESPONSES is the whole truth: a test compares it with the openai SDK's own types.
"""

from typing import Any

from tokenyard.broker.params import Grammar
from tokenyard.http.checks import (
    Schema,
    array,
    boolean,
    described,
    instance,
    integer,
    mapping,
    one_of,
    or_null,
    string,
)
from tokenyard.http.errors import invalid
from tokenyard.http.fields import (
    COMMON,
    HARMLESS,
    INT64,
    MAX_MESSAGES,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    Field,
    refused_unless,
)
from tokenyard.http.grammars import json_schema
from tokenyard.http.shapes import ITEM, ITEM_TOOL, TOOL_CHOICE, read_elsewhere

LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDABLE = {
    LOGPROBS,
    ENCRYPTED,
    # Of tools and inputs that an answer from here never has: nothing to leave out.
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
}

MAX_METADATA = 16
"""OpenAI's limit of pairs, and below those of a key's and a value's characters."""
_key, _value = string(1, 64), string(0, 512)


@described({"type": "object", "additionalProperties": _value.schema, "maxProperties": MAX_METADATA})
def metadata(value: Any, param: str) -> dict[str, str]:
    """The client's own pairs of strings; they come back with the response."""
    if type(value) is not dict:
        invalid(param, "must be an object of strings")
    if len(value) > MAX_METADATA:
        invalid(param, f"must have at most {MAX_METADATA} pairs, not {len(value)}")
    return {_key(key, f"{param}.{key[:64]}"): _value(one, f"{param}.{key[:64]}") for key, one in value.items()}


_names = array(one_of(*sorted(INCLUDABLE)))


@described(_names.schema)
def _include(value: Any, param: str) -> set[str]:
    names: list[str] = _names(value, param)
    return set(names)


_FORMAT: Schema = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema"]},
        "name": string(1, 64).schema,
        "schema": json_schema.schema,
    },
}


@described({"type": "object", "properties": {"format": or_null(_FORMAT), "verbosity": {"enum": ["medium", None]}}})
def text(value: Any, param: str) -> dict[str, Any]:
    """The answer's form: `grammar` is what it must match, `format` is how the request put it."""
    if type(value) is not dict:
        invalid(param, "must be an object")
    if value.get("verbosity") not in (None, "medium"):
        invalid(f"{param}.verbosity", "is not supported with the served models: leave it out, or send 'medium'")
    form = value.get("format") or {"type": "text"}
    kind = form.get("type") if type(form) is dict else None
    if kind not in ("text", "json_object", "json_schema"):
        invalid(f"{param}.format", "must be an object whose type is 'text', 'json_object' or 'json_schema'")
    if kind == "json_schema":
        string(1, 64)(form.get("name"), f"{param}.format.name")
        return {"grammar": json_schema(form.get("schema"), f"{param}.format.schema"), "format": form}
    return {"grammar": Grammar("json_object", "", f"{param}.format") if kind == "json_object" else None, "format": form}


@described({"const": "auto"})
def _no_summary(value: Any, param: str) -> Any:
    if value != "auto":
        invalid(param, "must be 'auto': the reasoning itself is sent, and nobody sums it up")
    return value


_conversation_id = string(1, 64)


@described({"anyOf": [_conversation_id.schema, {"type": "object", "required": ["id"]}]})
def conversation(value: Any, param: str) -> str:
    """A conversation's id, by itself or in an object."""
    if type(value) is dict:
        value, param = value.get("id"), f"{param}.id"
    found: str = _conversation_id(value, param)
    return found


_text_or_list = instance(str, list, words="a string or a list of items")


@described({"anyOf": [{"type": "string"}, {"type": "array", "items": ITEM, "maxItems": MAX_MESSAGES}]})
def _input(value: Any, param: str) -> Any:
    """Of a list only its length: items.py reads the items."""
    _text_or_list(value, param)
    if len(value) > MAX_MESSAGES and type(value) is list:
        invalid(param, f"must have at most {MAX_MESSAGES} items, not {len(value)}")
    return value


RESPONSES: dict[str, Field] = {
    **{name: field for name, field in COMMON.items() if name not in ("n", "max_tokens", "return_token_ids")},
    "input": Field(_input),
    "instructions": Field(string(0, 1 << 23)),
    "previous_response_id": Field(string(1, 64)),
    "conversation": Field(conversation),
    "store": Field(boolean),
    "background": Field(boolean),
    "max_output_tokens": Field(integer(1, INT64)),
    "max_tool_calls": Field(integer(1, INT64)),
    "metadata": Field(metadata),
    "include": Field(_include),
    "top_logprobs": Field(integer(0, MAX_TOP_LOGPROBS)),
    "tools": Field(array(read_elsewhere(ITEM_TOOL), high=MAX_TOOLS)),
    "tool_choice": Field(read_elsewhere(TOOL_CHOICE)),
    "parallel_tool_calls": Field(boolean),
    "reasoning": Field(mapping({"effort": string(1, 32), "summary": _no_summary, "generate_summary": _no_summary})),
    "text": Field(text),
    "truncation": Field(one_of("auto", "disabled")),
    "stream_options": Field(mapping({"include_obfuscation": boolean})),
    "chat_template_kwargs": Field(instance(dict, words="an object")),
    "continue_final_message": Field(boolean),
    # Notes that come back with the response.
    "user": Field(string(0, 512)),
    "safety_identifier": Field(string(0, 512)),
    "prompt_cache_key": Field(string(0, 512)),
    # Wishes for the provider's own machinery; none touches the text.
    "access_programs": HARMLESS,
    "background_options": HARMLESS,
    "image": HARMLESS,
    "context_management": refused_unless([], why="is not supported: nothing here compacts a context"),
    "moderation": refused_unless(),
    "personality": refused_unless(),
    "prompt": refused_unless(why="is not supported: there are no stored prompts here"),
    # What clients of the older endpoints may send by mistake, and would change the answer.
    "messages": refused_unless(why="belongs to /v1/chat/completions; send input"),
    "n": refused_unless(1, why="is not supported: a response is one answer"),
    "max_tokens": refused_unless(why="belongs to /v1/chat/completions; send max_output_tokens"),
    "max_completion_tokens": refused_unless(why="belongs to /v1/chat/completions; send max_output_tokens"),
    "response_format": refused_unless(why="belongs to /v1/chat/completions; send text.format"),
    "reasoning_effort": refused_unless(why="belongs to /v1/chat/completions; send reasoning.effort"),
    "return_token_ids": refused_unless(False),
    "prompt_logprobs": refused_unless(-1, why="is not supported: a response has no place for it"),
}
