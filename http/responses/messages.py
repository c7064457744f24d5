"""From a conversation's items to the messages of a chat, which is what templates know.

Items are as items.py made them, or as sequencer.py did: nothing is wrong with them any more.
"""

from typing import Any

import orjson

from tokenyard.http.mcp.names import tool_name
from tokenyard.http.responses.items import Item
from tokenyard.http.responses.toolbox import offered_name

Message = dict[str, Any]


def to_messages(instructions: str | None, items: list[Item]) -> list[Message]:
    """What one turn of the assistant said (thoughts, text, calls) becomes one message, as templates want it.

    System messages that begin the conversation become one: many templates know only the first.
    """
    messages: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    thought = ""
    for item in items:
        if item["type"] == "reasoning":
            thought += _thought(item)
        elif item["type"] == "mcp_call":
            for part in _server_call(item):
                _append(messages, part)
        elif (message := _message(item)) is not None:
            if message["role"] == "assistant" and thought:
                message["reasoning_content"], thought = thought, ""
            _append(messages, message)
    return messages


def _append(messages: list[Message], message: Message) -> None:
    last = messages[-1] if messages else None
    if last is not None and last["role"] == message["role"] == "system" and len(messages) == 1:
        last["content"] += "\n\n" + message["content"]
    elif last is not None and _is_same_turn(last, message):
        last["content"] += message["content"]
        last.setdefault("tool_calls", []).extend(message["tool_calls"])
    else:
        messages.append(message)


def _is_same_turn(last: Message, message: Message) -> bool:
    """Whether a call belongs to the message before it. A thought in between begins another."""
    calls = message["role"] == last["role"] == "assistant" and "tool_calls" in message
    return calls and "reasoning_content" not in message


def _message(item: Item) -> Message | None:
    """One item by itself; None for those that say nothing to the model."""
    match item["type"]:
        case "message":
            role = "system" if item["role"] == "developer" else item["role"]
            return {"role": role, "content": "".join(part.get("text", "") for part in item["content"])}
        case "function_call":
            return _call(item, item["arguments"])
        case "custom_tool_call":
            return _call(item, orjson.dumps({"input": item["input"]}).decode())
        case "function_call_output" | "custom_tool_call_output":
            return {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
        case _:
            return None


def _server_call(item: Item) -> list[Message]:
    """A call that ran in the server: to the model, a call and its output like any other."""
    function = {"name": tool_name(item["server_label"], item["name"]), "arguments": item["arguments"]}
    call = {"id": item["id"], "type": "function", "function": function}
    output = item["output"] if item["output"] is not None else _error_text(item["error"])
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": item["id"], "content": output},
    ]


def _error_text(error: Any) -> str:
    content = error.get("content") if isinstance(error, dict) else None
    texts = [str(part.get("text", "")) for part in content or [] if isinstance(part, dict)]
    return "\n".join(texts) or "Error: the call did not finish"


def _call(item: Item, arguments: str) -> Message:
    function = {"name": offered_name(item["name"], item.get("namespace", "")), "arguments": arguments}
    call = {"id": item["call_id"], "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _thought(item: Item) -> str:
    parts = item.get("content") or item["summary"]
    return "\n\n".join(part["text"] for part in parts)
