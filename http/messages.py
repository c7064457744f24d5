"""A conversation as clients send it, checked and brought to the shape that chat templates expect.

Knows no template and no tokenizer.
"""

import json
from typing import Any

import orjson

from tokenyard.http.errors import invalid
from tokenyard.http.tools import function_name

ROLES = ("system", "developer", "user", "assistant", "tool")

REASONING = ("reasoning_content", "reasoning")
"""What clients call a thought that comes back; templates read the first."""

MAX_PARTS = 1024
"""Of one message, and of calls in one: each is a check and a place in the template, and OpenAI's limits are lower."""


def read_messages(raw: list[Any]) -> list[dict[str, Any]]:
    """Raises TokenyardError naming the message and its part, such as `messages.0.content.1.type`."""
    return [_message(message, f"messages.{index}") for index, message in enumerate(raw)]


def _message(raw: Any, param: str) -> dict[str, Any]:
    if type(raw) is not dict:
        invalid(param, "must be an object")
    role = raw.get("role")
    if role not in ROLES:
        invalid(f"{param}.role", f"must be one of {', '.join(ROLES)}" if role is not None else "is required")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    message["content"] = _content(raw, role, param)
    for name in ("name", "tool_call_id", *REASONING):
        if raw.get(name) is not None:
            if type(raw[name]) is not str:
                invalid(f"{param}.{name}", "must be a string")
            message[REASONING[0] if name in REASONING else name] = raw[name]
    if raw.get("function_call") is not None:
        invalid(f"{param}.function_call", "is deprecated and not supported; use tool_calls")
    if raw.get("audio") is not None:
        invalid(f"{param}.audio", "is not supported: the served models read text")
    if raw.get("tool_calls"):
        if role != "assistant":
            invalid(f"{param}.tool_calls", "belong to messages of the assistant")
        message["tool_calls"] = _tool_calls(raw["tool_calls"], f"{param}.tool_calls")
    return message


def _content(raw: dict[str, Any], role: str, param: str) -> str:
    """The text of a message; null and absent are empty where the assistant may have said nothing."""
    content = raw.get("content")
    param = f"{param}.content"
    if content is None:
        if role == "user" and "content" not in raw:
            invalid(param, "is required")
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        invalid(param, "must be a string or a list of parts")
    if len(content) > MAX_PARTS:
        invalid(param, f"must have at most {MAX_PARTS} parts, not {len(content)}")
    return "".join(_part(part, f"{param}.{index}") for index, part in enumerate(content))


def _part(part: Any, param: str) -> str:
    if type(part) is not dict:
        invalid(param, "must be an object")
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        if not isinstance(kind, str):
            invalid(f"{param}.type", "must be 'text'")
        invalid(f"{param}.type", f"must be 'text': the served models do not read {kind[:40]!r}")
    text = part.get(kind)
    if not isinstance(text, str):
        invalid(f"{param}.{kind}", "must be a string")
    return text


def _tool_calls(raw: Any, param: str) -> list[dict[str, Any]]:
    """Calls of an earlier turn. Templates want arguments as an object; clients send them as a string of JSON."""
    if type(raw) is not list:
        invalid(param, "must be a list")
    if len(raw) > MAX_PARTS:
        invalid(param, f"must have at most {MAX_PARTS} calls, not {len(raw)}")
    calls = []
    for index, call in enumerate(raw):
        at = f"{param}.{index}"
        function = call.get("function") if type(call) is dict else None
        if type(function) is not dict:
            invalid(f"{at}.function", "must be an object")
        # A model's own slips come back: a call without a name, or without an id, is no reason to refuse the next turn.
        name = function_name(function["name"], f"{at}.function.name") if function.get("name") else ""
        arguments = _arguments(function.get("arguments"), f"{at}.function.arguments")
        own_id = {"id": call["id"]} if call.get("id") is not None else {}
        calls.append({**own_id, "type": "function", "function": {"name": name, "arguments": arguments}})
    return calls


def with_written_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages with each call's arguments as JSON, for templates that want to print them as they are."""

    def written(call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        if type(function["arguments"]) is str:
            return call
        return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}

    return [
        {**message, "tool_calls": [written(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _arguments(raw: Any, param: str) -> Any:
    """An object where it is one; a model's own malformed JSON goes back to it as it was."""
    if raw is None:
        return {}
    if isinstance(raw, dict):
        return raw
    if not isinstance(raw, str):
        invalid(param, "must be a string of JSON")
    try:
        value = orjson.loads(raw or "{}")
    except orjson.JSONDecodeError:
        return raw
    return value if isinstance(value, dict) else raw
