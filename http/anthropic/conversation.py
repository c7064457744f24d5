"""Messages of content blocks, brought to the shape that chat templates expect: one turn a message, roles in turn.

Knows no template and no tokenizer.
"""

from collections.abc import Callable
from typing import Any

from tokenyard.http.anthropic.mcp import call_name
from tokenyard.http.anthropic.thoughts import thought_of
from tokenyard.http.anthropic.tools import tool_name
from tokenyard.http.checks import boolean, instance, string
from tokenyard.http.errors import invalid
from tokenyard.http.messages import MAX_PARTS

ROLES = ("user", "assistant", "system")

BILLING = "x-anthropic-billing-header:"
"""Claude Code's first system block begins so. It is a note for Anthropic's accounts; in some versions it differs with
every request, and no prefix would ever be found in a cache."""

Block = dict[str, Any]
Message = dict[str, Any]

_call_id = string(1, 1024)
_input = instance(dict, words="an object")


def read_conversation(raw: list[Any], system: str | list[Any] | None, kept_thoughts: int | None) -> list[Message]:
    """One list of messages, the system's first. Raises TokenyardError naming the block and its part.

    A system message before the assistant's first turn joins the system prompt. A later one becomes part of the user's
    turn, in the tags that Claude Code itself uses where there is no such role: many templates refuse a second system
    message, and moving it to the front would cost the cached prefix of the whole conversation.
    """
    instructions = [] if system is None else _texts(system, "system", "system")
    reader = _Reader()
    for index, message in enumerate(raw):
        param = f"messages.{index}"
        if type(message) is not dict:
            invalid(param, "must be an object")
        role = message.get("role")
        if role not in ROLES:
            invalid(f"{param}.role", f"must be one of {', '.join(ROLES)}" if role is not None else "is required")
        content, param = message.get("content"), f"{param}.content"
        if role == "user":
            reader.user(_blocks(content, param), param)
        elif role == "assistant":
            reader.assistant(_blocks(content, param), param)
        elif reader.begun:
            reader.say(f"<system-reminder>\n{_join(_texts(content, param, role))}\n</system-reminder>")
        else:
            instructions += _texts(content, param, role)
    messages = reader.finish()
    if kept_thoughts is not None:
        _clear_thoughts(messages, kept_thoughts)
    instructions = [text for text in instructions if text and not text.startswith(BILLING)]
    opening = [{"role": "system", "content": _join(instructions)}] if instructions else []
    if not opening + messages:
        invalid("messages", "must say something: all of their content is empty")
    return opening + messages


class _Reader:
    """Gathers turns: consecutive messages of one role are one turn, as Anthropic has it."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        """Texts are lists until `finish`: to join them one by one would take a long turn quadratic time."""
        self._names: dict[str, str] = {}
        """Tools' names by the ids of their calls: some templates want a result to name its tool."""
        self.begun = False
        """Whether the assistant has said something."""

    def finish(self) -> list[Message]:
        """The messages; nothing may be read after."""
        for message in self._messages:
            texts = message["content"]
            message["content"] = "".join(texts) if message["role"] == "assistant" else _join(texts)
            if "reasoning_content" in message:
                message["reasoning_content"] = "".join(message["reasoning_content"])
        return self._messages

    def _turn(self, role: str) -> Message:
        """The turn that is being read: the last message, or a new one."""
        if not self._messages or self._messages[-1]["role"] != role:
            self._messages.append({"role": role, "content": []})
        return self._messages[-1]

    def say(self, text: str) -> None:
        """More of the user's turn."""
        self._turn("user")["content"].append(text)

    def user(self, blocks: list[Block], param: str) -> None:
        """Results of tools, then text; templates want them right behind the calls."""
        texts = []
        for index, block in enumerate(blocks):
            at = f"{param}.{index}"
            if _kind(block, at) == "tool_result":
                self._result(block, at)
            else:
                texts.append(_read_text(block, at, "user"))
        if texts or not blocks:
            self.say(_join(texts))

    def _result(self, block: Block, param: str) -> None:
        call_id = _call_id(block.get("tool_use_id"), f"{param}.tool_use_id")
        content = block.get("content")
        text = "" if content is None else _join(_texts(content, f"{param}.content", "tool"))
        if block.get("is_error") is not None and boolean(block["is_error"], f"{param}.is_error"):
            text = f"Error: {text}"
        message = {"role": "tool", "tool_call_id": call_id, "content": [text]}
        if call_id in self._names:
            message["name"] = self._names[call_id]
        self._messages.append(message)

    def assistant(self, blocks: list[Block], param: str) -> None:
        """Text, thoughts and calls; a trailing turn of text is gone on with."""
        self.begun = True
        turn = self._turn("assistant")
        for index, block in enumerate(blocks):
            at = f"{param}.{index}"
            match _kind(block, at):
                case "mcp_tool_use":
                    turn.setdefault("tool_calls", []).append(self._call({**block, "name": call_name(block, at)}, at))
                case "mcp_tool_result":
                    self._result(block, at)
                    turn = self._turn("assistant") if index + 1 < len(blocks) else turn
                case "tool_use":
                    turn.setdefault("tool_calls", []).append(self._call(block, at))
                case "thinking" | "redacted_thinking":
                    turn.setdefault("reasoning_content", []).append(thought_of(block, at))
                case _:
                    turn["content"].append(_read_text(block, at, "assistant"))

    def _call(self, block: Block, param: str) -> dict[str, Any]:
        call_id = _call_id(block.get("id"), f"{param}.id")
        name = self._names[call_id] = tool_name(block.get("name"), f"{param}.name")
        arguments = _input(block.get("input"), f"{param}.input")
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _clear_thoughts(messages: list[Message], kept: int) -> None:
    """Anthropic's edit clear_thinking_20251015: only the last so many turns that have thoughts keep them."""
    thinking = [message for message in messages if "reasoning_content" in message]
    for message in thinking[: max(0, len(thinking) - kept)]:
        del message["reasoning_content"]


def _blocks(content: Any, param: str) -> list[Block]:
    """A message's content; a string is one block of text."""
    if content is None:
        invalid(param, "is required")
    if type(content) is str:
        return [{"type": "text", "text": content}]
    if type(content) is not list:
        invalid(param, "must be a string or a list of blocks")
    if len(content) > MAX_PARTS:
        invalid(param, f"must have at most {MAX_PARTS} blocks, not {len(content)}")
    return content


def _texts(content: Any, param: str, role: str) -> list[str]:
    """The texts of content that holds nothing else."""
    return [_read_text(block, f"{param}.{index}", role) for index, block in enumerate(_blocks(content, param))]


def _join(texts: list[str]) -> str:
    """Blocks are paragraphs of their own."""
    return "\n".join(text for text in texts if text)


def _kind(block: Any, param: str) -> str:
    if type(block) is not dict:
        invalid(param, "must be an object")
    kind = block.get("type")
    if type(kind) is not str:
        invalid(f"{param}.type", "is required" if kind is None else "must be a string")
    return kind


def _read_text(block: Any, param: str, role: str) -> str:
    kind = _kind(block, param)
    readers = READERS[role]
    if kind not in readers:
        words = f"must be one of {', '.join(readers)} here: {kind[:60]!r} is not supported"
        invalid(f"{param}.type", words)
    return readers[kind](block, param)


def _string(block: Block, name: str, param: str) -> str:
    if type(block.get(name)) is not str:
        invalid(f"{param}.{name}", "must be a string")
    text: str = block[name]
    return text


def _text(block: Block, param: str) -> str:
    return _string(block, "text", param)


def _document(block: Block, param: str) -> str:
    """A document that is text, below its title and what is said of it."""
    source = block.get("source")
    kind = source.get("type") if type(source) is dict else None
    if kind not in ("text", "content"):
        invalid(f"{param}.source.type", "must be 'text' or 'content': the served models read text")
    assert isinstance(source, dict)
    body = (
        _string(source, "data", f"{param}.source")
        if kind == "text"
        else _join(_texts(source.get("content"), f"{param}.source.content", "system"))
    )
    _refuse_citations(block, param)
    return _join([_optional(block, "title", param), _optional(block, "context", param), body])


def _search_result(block: Block, param: str) -> str:
    _refuse_citations(block, param)
    head = [_string(block, "title", param), _string(block, "source", param)]
    return _join([*head, *_texts(block.get("content"), f"{param}.content", "system")])


def _optional(block: Block, name: str, param: str) -> str:
    return _string(block, name, param) if block.get(name) is not None else ""


def _refuse_citations(block: Block, param: str) -> None:
    citations = block.get("citations")
    if type(citations) is dict and citations.get("enabled"):
        invalid(f"{param}.citations.enabled", "must be false: answers do not cite")


def _tool_reference(block: Block, param: str) -> str:
    """A tool that a search among tools found: all tools are in the prompt anyway."""
    return f"The tool {_string(block, 'tool_name', param)} can be used now."


READERS: dict[str, dict[str, Callable[[Block, str], str]]] = {
    "system": {"text": _text},
    "user": {"text": _text, "document": _document, "search_result": _search_result},
    "assistant": {"text": _text},
    "tool": {
        "text": _text,
        "document": _document,
        "search_result": _search_result,
        "tool_reference": _tool_reference,
    },
}
"""What is read as text, by whose content it is in."""
