"""Input items as clients send them: checked, given ids, and brought to the shape in which they are kept and listed.

Knows nothing of chat templates (messages.py) and of the store.
"""

from collections.abc import Callable
from typing import Any

from tokenyard.http.checks import array, boolean, instance, string
from tokenyard.http.errors import invalid
from tokenyard.http.messages import MAX_PARTS
from tokenyard.http.responses.ids import new_id
from tokenyard.http.seals import unseal

Item = dict[str, Any]

ROLES = ("user", "assistant", "system", "developer")

_id = string(1, 128)
_name = string(1, 256)
_any_text = instance(str, words="a string")


def read_input(raw: str | list[Any]) -> list[Item]:
    """The items of a request's `input`. Raises TokenyardError naming the item and its part: `input.3.content`."""
    if isinstance(raw, str):
        raw = [{"role": "user", "content": raw}]
    return [read_item(item, f"input.{index}") for index, item in enumerate(raw)]


def read_item(raw: Any, param: str) -> Item:
    """One item. A message may leave its type out, and so may a reference."""
    if type(raw) is not dict:
        invalid(param, "must be an object")
    kind = raw.get("type")
    if kind is None:
        kind = "message" if "role" in raw else "item_reference" if raw.keys() == {"id"} else None
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        words = "is required" if kind is None else f"must be one of {', '.join(_READERS)}, not {str(kind)[:40]!r}"
        invalid(f"{param}.type", words)
    return read(raw, param)


def _own_id(raw: Item, param: str, prefix: str) -> str:
    """The item's id: the one it was given when it came from a server, or a new one."""
    given = raw.get("id")
    return new_id(prefix) if given is None else str(_id(given, f"{param}.id"))


def _message(raw: Item, param: str) -> Item:
    role = raw.get("role")
    if role not in ROLES:
        invalid(f"{param}.role", f"must be one of {', '.join(ROLES)}" if role is not None else "is required")
    text = _text(raw.get("content"), f"{param}.content", "output_text" if role == "assistant" else "input_text")
    content: list[Item] = [{"type": "input_text", "text": text}]
    if role == "assistant":
        content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    item: Item = {"type": "message", "id": _own_id(raw, param, "msg"), "role": role, "status": "completed"}
    if raw.get("phase") is not None:
        item["phase"] = _any_text(raw["phase"], f"{param}.phase")
    return {**item, "content": content}


def _text(content: Any, param: str, usual: str) -> str:
    """The text of a string or of a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        invalid(param, "must be a string or a list of parts" if content is not None else "is required")
    if len(content) > MAX_PARTS:
        invalid(param, f"must have at most {MAX_PARTS} parts, not {len(content)}")
    return "".join(_part(part, f"{param}.{index}", usual) for index, part in enumerate(content))


def _part(part: Any, param: str, usual: str) -> str:
    if type(part) is not dict:
        invalid(param, "must be an object")
    kind = part.get("type")
    if kind not in ("input_text", "output_text", "text", "refusal"):
        words = f": the served models do not read {kind[:40]!r}" if isinstance(kind, str) else ""
        invalid(f"{param}.type", f"must be {usual!r}{words}")
    field = "refusal" if kind == "refusal" else "text"
    text: str = _any_text(part.get(field), f"{param}.{field}")
    return text


def _call(raw: Item, param: str) -> Item:
    item = {
        "type": "function_call",
        "id": _own_id(raw, param, "fc"),
        "call_id": _id(raw.get("call_id"), f"{param}.call_id"),
        "name": _name(raw.get("name"), f"{param}.name"),
        "arguments": _any_text(raw.get("arguments"), f"{param}.arguments"),
        "status": "completed",
    }
    return _with_namespace(item, raw, param)


def _custom_call(raw: Item, param: str) -> Item:
    item = {
        "type": "custom_tool_call",
        "id": _own_id(raw, param, "ctc"),
        "call_id": _id(raw.get("call_id"), f"{param}.call_id"),
        "name": _name(raw.get("name"), f"{param}.name"),
        "input": _any_text(raw.get("input"), f"{param}.input"),
    }
    return _with_namespace(item, raw, param)


def _with_namespace(item: Item, raw: Item, param: str) -> Item:
    if raw.get("namespace") is not None:
        item["namespace"] = _name(raw["namespace"], f"{param}.namespace")
    return item


def _output(kind: str, prefix: str) -> Callable[[Item, str], Item]:
    def read(raw: Item, param: str) -> Item:
        return {
            "type": kind,
            "id": _own_id(raw, param, prefix),
            "call_id": _id(raw.get("call_id"), f"{param}.call_id"),
            "output": _text(raw.get("output"), f"{param}.output", "input_text"),
            "status": "completed",
        }

    return read


def _reasoning(raw: Item, param: str) -> Item:
    """Its content, else what `encrypted_content` holds, else its summary: whichever there is."""
    summary = _texts(raw, "summary", param)
    content = _texts(raw, "content", param)
    sealed = raw.get("encrypted_content")
    if sealed is not None and not content:
        content = [unseal(_any_text(sealed, f"{param}.encrypted_content"), f"{param}.encrypted_content")]
    return {
        "type": "reasoning",
        "id": _own_id(raw, param, "rs"),
        "summary": [{"type": "summary_text", "text": text} for text in summary],
        "content": [{"type": "reasoning_text", "text": text} for text in content],
        "status": "completed",
    }


def _texts(raw: Item, field: str, param: str) -> list[str]:
    parts = raw.get(field)
    if parts is None:
        return []
    if type(parts) is not list:
        invalid(f"{param}.{field}", "must be a list of parts")
    return [
        _any_text(part.get("text") if type(part) is dict else None, f"{param}.{field}.{index}.text")
        for index, part in enumerate(parts)
    ]


def _reference(raw: Item, param: str) -> Item:
    """Stands for an item that the store has; store.py puts that in its place."""
    return {"type": "item_reference", "id": _id(raw.get("id"), f"{param}.id"), "param": f"{param}.id"}


def _additional_tools(raw: Item, param: str) -> Item:
    """More tools, offered from here on."""
    tools = array(instance(dict, words="an object"))(raw.get("tools"), f"{param}.tools")
    return {
        "type": "additional_tools",
        "id": _own_id(raw, param, "at"),
        "role": "developer",
        "tools": tools,
    }


def _tool_list(raw: Item, param: str) -> Item:
    """What a server offered in an earlier response; it is asked again."""
    tools = array(instance(dict, words="an object"))(raw.get("tools"), f"{param}.tools")
    label = _name(raw.get("server_label"), f"{param}.server_label")
    item = {"type": "mcp_list_tools", "id": _own_id(raw, param, "mcpl"), "server_label": label, "tools": tools}
    return {**item, "error": raw.get("error")}


def _server_call(raw: Item, param: str) -> Item:
    """A call that ran in the server, and what came of it."""
    item = {"type": "mcp_call", "id": _own_id(raw, param, "mcp"), **_named_call(raw, param)}
    output, asked = raw.get("output"), raw.get("approval_request_id")
    return {
        **item,
        "approval_request_id": None if asked is None else _id(asked, f"{param}.approval_request_id"),
        "status": "completed",
        "output": None if output is None else _any_text(output, f"{param}.output"),
        "error": raw.get("error"),
    }


def _approval_request(raw: Item, param: str) -> Item:
    item_id = _id(raw.get("id"), f"{param}.id")
    return {"type": "mcp_approval_request", "id": item_id, **_named_call(raw, param)}


def _named_call(raw: Item, param: str) -> Item:
    return {
        "server_label": _name(raw.get("server_label"), f"{param}.server_label"),
        "name": _name(raw.get("name"), f"{param}.name"),
        "arguments": _any_text(raw.get("arguments"), f"{param}.arguments"),
    }


def _approval_response(raw: Item, param: str) -> Item:
    """A person's word on a call."""
    return {
        "type": "mcp_approval_response",
        "id": _own_id(raw, param, "mcpa"),
        "approval_request_id": _id(raw.get("approval_request_id"), f"{param}.approval_request_id"),
        "approve": boolean(raw.get("approve"), f"{param}.approve"),
        "reason": None if raw.get("reason") is None else _any_text(raw["reason"], f"{param}.reason"),
    }


_READERS: dict[str, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output("function_call_output", "fco"),
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _output("custom_tool_call_output", "ctco"),
    "reasoning": _reasoning,
    "item_reference": _reference,
    "additional_tools": _additional_tools,
    "mcp_list_tools": _tool_list,
    "mcp_call": _server_call,
    "mcp_approval_request": _approval_request,
    "mcp_approval_response": _approval_response,
}
