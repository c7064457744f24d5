"""From pieces to Anthropic's messages and events: content blocks, one after the other."""

import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.anthropic.errors import error_body
from tokenyard.http.anthropic.request import MessagesRequest
from tokenyard.http.anthropic.thoughts import signature_of
from tokenyard.http.chat import read_piece
from tokenyard.http.choice import Choice, Piece
from tokenyard.http.generation import Generation
from tokenyard.http.replies import typed_event
from tokenyard.http.turns import (
    CallArguments,
    CallBegun,
    CallEnded,
    Part,
    PlainText,
    ServerCallBegun,
    ServerCallEnded,
    Text,
    Thought,
    TurnParser,
)

Event = dict[str, Any]


def failure(error: TokenyardError) -> bytes:
    """How a stream ends in a failure."""
    return typed_event(error_body(error))


class MessagesFormat:
    """Shapes one answer."""

    def __init__(self, request: MessagesRequest, generation: Generation, parsers: list[TurnParser]) -> None:
        self._request = request
        self._generation = generation
        self._parser: TurnParser = parsers[0] if parsers else PlainText()
        self._omits_thoughts = request.thinking is not None and request.thinking.omitted
        self._blocks = BlockEvents(self._omits_thoughts)
        self._reason = ""
        self._id = f"msg_{secrets.token_hex(12)}"

    def opening(self, choice: Choice) -> bytes:
        message = {**self._message([]), "stop_reason": None, "stop_sequence": None}
        return typed_event({"type": "message_start", "message": message}) + typed_event({"type": "ping"})

    def chunk(self, choice: Choice, piece: Piece) -> bytes:
        parts = read_piece(self._parser, choice, piece)
        events = [event for part in parts for event in self._blocks.write(part)]
        if piece.finish_reason is not None:
            self._reason = piece.finish_reason
            events += self._blocks.close()
        return b"".join(map(typed_event, events))

    def closing(self) -> bytes:
        delta = {"type": "message_delta", "delta": self._stop(), "usage": self._usage()}
        return typed_event(delta) + typed_event({"type": "message_stop"})

    def failure(self, error: TokenyardError) -> bytes:
        return failure(error)

    def whole(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        (pieces_of_one,) = pieces
        (choice,) = self._generation.choices
        parts = [part for piece in pieces_of_one for part in read_piece(self._parser, choice, piece)]
        assert pieces_of_one[-1].finish_reason is not None
        self._reason = pieces_of_one[-1].finish_reason
        return {**self._message(content_of(parts, self._omits_thoughts)), **self._stop()}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._request.model,
            "content": content,
            "usage": {**self._usage(), "service_tier": "standard"},
        }

    def _usage(self) -> dict[str, Any]:
        """So far; Anthropic counts cached input apart from the rest."""
        usage = self._generation.usage
        num_cached = usage["prompt_tokens_details"]["cached_tokens"]
        counts: dict[str, Any] = {
            "input_tokens": usage["prompt_tokens"] - num_cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": num_cached,
            "output_tokens": usage["completion_tokens"],
        }
        if (details := usage.get("completion_tokens_details")) is not None:
            counts["output_tokens_details"] = {"thinking_tokens": details["reasoning_tokens"]}
        return counts

    def _stop(self) -> dict[str, Any]:
        """Why the answer ended."""
        (plan,) = self._generation.plans
        matched = plan.choice.matched_stop
        if matched in self._request.stop:
            return {"stop_reason": "stop_sequence", "stop_sequence": matched}
        reason = "end_turn"
        if self._reason == "length":
            wanted = self._request.max_tokens
            clipped = wanted is not None and wanted > plan.job.params.max_tokens
            reason = "model_context_window_exceeded" if clipped else "max_tokens"
        elif self._parser.num_calls:
            reason = "tool_use"
        return {"stop_reason": reason, "stop_sequence": None}


class BlockEvents:
    """A stream's content blocks: at most one is open at a time."""

    def __init__(self, omits_thoughts: bool) -> None:
        self._omits_thoughts = omits_thoughts
        self._index = -1
        self._open = ""
        """The open block's type, if any."""
        self._thought = ""
        """The open block's thought so far."""

    def write(self, part: Part) -> Iterator[Event]:
        """The events that say this part."""
        match part:
            case Text(text):
                yield from self._begin("text", text="")
                yield self._delta("text_delta", text=text)
            case Thought(text):
                yield from self._begin("thinking", thinking="", signature="")
                self._thought += text
                if not self._omits_thoughts:
                    yield self._delta("thinking_delta", thinking=text)
            case CallBegun(_, name, own_id):
                yield from self.close()
                yield from self._begin("tool_use", id=call_id(own_id), name=name, input={})
            case CallArguments(_, text):
                yield self._delta("input_json_delta", partial_json=text)
            case CallEnded():
                yield from self.close()
            case ServerCallBegun() | ServerCallEnded():
                yield from self.close()
                block = server_block(part)
                yield from self._begin(block.pop("type"), **block)
                yield from self.close()

    def _begin(self, kind: str, **fields: Any) -> Iterator[Event]:
        """A block of this type, unless one is open."""
        if self._open == kind:
            return
        yield from self.close()
        self._index += 1
        self._open = kind
        block = {"type": kind, **fields}
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, kind: str, **fields: str) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, **fields}}

    def close(self) -> Iterator[Event]:
        """End the open block."""
        if not self._open:
            return
        if self._open == "thinking":
            yield self._delta("signature_delta", signature=signature_of(self._thought, self._omits_thoughts))
            self._thought = ""
        self._open = ""
        yield {"type": "content_block_stop", "index": self._index}


def content_of(parts: Iterable[Part], omits_thoughts: bool) -> list[dict[str, Any]]:
    """A whole answer's content blocks."""
    blocks: list[dict[str, Any]] = []

    def last(kind: str, **fields: Any) -> dict[str, Any]:
        if not blocks or blocks[-1]["type"] != kind:
            blocks.append({"type": kind, **fields})
        return blocks[-1]

    for part in parts:
        match part:
            case Text(text):
                last("text", text="")["text"] += text
            case Thought(text):
                last("thinking", thinking="")["thinking"] += text
            case CallBegun(_, name, own_id):
                blocks.append({"type": "tool_use", "id": call_id(own_id), "name": name, "input": ""})
            case CallArguments(_, text):
                blocks[-1]["input"] += text
            case ServerCallBegun() | ServerCallEnded():
                blocks.append(server_block(part))
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = _input(block["input"])
        elif block["type"] == "thinking":
            block["signature"] = signature_of(block["thinking"], omits_thoughts)
            block["thinking"] = "" if omits_thoughts else block["thinking"]
    return blocks


def server_block(part: ServerCallBegun | ServerCallEnded) -> dict[str, Any]:
    """A call that ran in the server, or what it gave; either comes whole."""
    if isinstance(part, ServerCallBegun):
        call = {"id": part.id, "name": part.tool, "server_name": part.server, "input": _input(part.arguments)}
        return {"type": "mcp_tool_use", **call}
    content = [{"type": "text", "text": part.output}]
    return {"type": "mcp_tool_result", "tool_use_id": part.id, "is_error": part.is_error, "content": content}


def call_id(own_id: str) -> str:
    """The model's own id of a call, or one we make."""
    return own_id or f"toolu_{secrets.token_hex(12)}"


def _input(arguments: str) -> dict[str, Any]:
    """A call's input. What is no object, since the model erred or was cut off, is wrapped as Anthropic advises."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return {"INVALID_JSON": arguments}
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}
