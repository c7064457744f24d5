"""From the parts of a turn to Responses' events and its final object.

Sans-IO: parts in, events out; the response object grows with them. Each item's life is a class: it is added, told, and
done, and whatever tells of it carries the same id and index. Must not know tokens, HTTP, or the store.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import orjson

from tokenyard.http.responses.ids import new_id
from tokenyard.http.responses.server_items import ServerCall, approval_request, tool_list
from tokenyard.http.responses.toolbox import Offer
from tokenyard.http.seals import seal
from tokenyard.http.turns import (
    ApprovalAsked,
    CallArguments,
    CallBegun,
    CallEnded,
    Part,
    ServerCallBegun,
    ServerCallEnded,
    Text,
    Thought,
    ToolsListed,
)

Event = dict[str, Any]

TERMINAL = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}
"""The last event of a stream, by the response's status. There is none for `cancelled`: it ends as incomplete."""


class Sequencer:
    """Tells one response. `begin`, then `push` as parts come, then one of `end` and `fail`."""

    def __init__(
        self, response: dict[str, Any], offers: dict[str, Offer], sealed: bool = False, listed: Collection[str] = ()
    ) -> None:
        """`listed`: servers whose tools the conversation has told already."""
        self.response = response
        """The response object as it is now; `output` holds the items that are done."""
        self.begun = False
        self.ended = False
        self._offers = offers
        self._sealed = sealed
        """Whether reasoning items carry `encrypted_content`."""
        self._num_events = 0
        self._talk: _Talk | None = None
        """The message or thought that is being told."""
        self._calls: dict[int, _Call] = {}
        """Calls that have begun and not ended, by their number in the turn."""
        self._listed = set(listed)
        self._server_calls: dict[str, ServerCall] = {}
        """Calls that run in the server, by the id of their parts."""
        self._items: list[dict[str, Any] | None] = []
        """By output index; None while an item is being told."""

    # What an item needs to tell of itself.

    def event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event

    def reserve(self) -> int:
        """The output index of a new item."""
        self._items.append(None)
        return len(self._items) - 1

    def finish_item(self, index: int, item: dict[str, Any]) -> Event:
        """An item is done."""
        self._items[index] = item
        self.response["output"] = [item for item in self._items if item is not None]
        return self.event("response.output_item.done", output_index=index, item=item)

    # From outside.

    def begin(self) -> list[Event]:
        """The response exists and runs; a second call says nothing."""
        if self.begun:
            return []
        self.begun = True
        before = self.response["status"]
        events = [self._snapshot("response.created")]
        if before == "queued":
            events.append(self._snapshot("response.queued"))
            self.response["status"] = "in_progress"
        return [*events, self._snapshot("response.in_progress")]

    def push(self, part: Part, logprobs: list[dict[str, Any]] | None = None, cut: bool = False) -> list[Event]:
        """More of the turn. `logprobs` are of a Text's tokens; `cut`: the limit of tokens ended the turn here."""
        match part:
            case Thought(text):
                return self._say(_Thinking, text, [])
            case Text(text):
                return self._say(_Message, text, logprobs or [])
            case CallBegun(number, name, own_id):
                events = self._close_talk("completed")
                offer = self._offers.get(name, Offer("function", name))
                call = (_CustomCall if offer.kind == "custom" else _FunctionCall)(self, offer, own_id)
                self._calls[number] = call
                return events + call.open()
            case CallArguments(number, text):
                return self._calls[number].tell(text)
            case CallEnded(number):
                return self._calls.pop(number).close(cut)
            case ToolsListed():
                return self._tell_list(part)
            case ServerCallBegun():
                return self._close_talk("completed") + self._begin_server_call(part)
            case ServerCallEnded():
                return self._end_server_call(part)
            case ApprovalAsked():
                return self._close_talk("completed") + self._whole(approval_request(part))

    def _whole(self, item: dict[str, Any]) -> list[Event]:
        """An item that comes at once."""
        index = self.reserve()
        added = self.event("response.output_item.added", output_index=index, item=item)
        return [added, self.finish_item(index, item)]

    def _tell_list(self, part: ToolsListed) -> list[Event]:
        """What a server offers; a conversation says it once."""
        if part.server in self._listed:
            return []
        self._listed.add(part.server)
        item, index = tool_list(part), self.reserve()
        place = {"item_id": item["id"], "output_index": index}
        return [
            self.event("response.output_item.added", output_index=index, item={**item, "tools": [], "error": None}),
            self.event("response.mcp_list_tools.in_progress", **place),
            self.event(f"response.mcp_list_tools.{'failed' if part.error else 'completed'}", **place),
            self.finish_item(index, item),
        ]

    def _begin_server_call(self, part: ServerCallBegun) -> list[Event]:
        call = self._server_calls[part.id] = ServerCall(part, self.reserve())
        place = {"item_id": call.id, "output_index": call.index}
        return [
            self.event("response.output_item.added", output_index=call.index, item=call.begun()),
            self.event("response.mcp_call.in_progress", **place),
            self.event("response.mcp_call_arguments.delta", **place, delta=call.arguments),
            self.event("response.mcp_call_arguments.done", **place, arguments=call.arguments),
        ]

    def _end_server_call(self, part: ServerCallEnded) -> list[Event]:
        call = self._server_calls.pop(part.id)
        kind = "response.mcp_call.failed" if part.is_error else "response.mcp_call.completed"
        ended = self.event(kind, item_id=call.id, output_index=call.index)
        return [ended, self.finish_item(call.index, call.ended(part))]

    def _say(self, kind: "type[_Talk]", text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events: list[Event] = []
        if type(self._talk) is not kind:
            events = self._close_talk("completed")
            self._talk = kind(self)
            events += self._talk.open()
        assert self._talk is not None
        return events + self._talk.tell(text, logprobs)

    def _close_talk(self, status: str) -> list[Event]:
        talk, self._talk = self._talk, None
        return [] if talk is None else talk.close(status, self._sealed)

    def end(self, status: str, usage: dict[str, Any] | None, now: float, reason: str | None = None) -> list[Event]:
        """The turn is over: completed, incomplete (then `reason` says why) or cancelled."""
        events = [] if self._items or status == "cancelled" else self._say(_Message, "", [])
        events += self._close_all("completed" if status == "completed" else "incomplete")
        self.response |= {"status": status, "usage": usage}
        if status == "completed":
            self.response["completed_at"] = int(now)
        if reason is not None:
            self.response["incomplete_details"] = {"reason": reason}
        return [*events, self._last()]

    def fail(self, code: str, words: str) -> list[Event]:
        """Nothing more will come."""
        events = self.begin() + self._close_all("incomplete")
        self.response |= {"status": "failed", "error": {"code": code, "message": words}}
        return [*events, self._last()]

    def _close_all(self, status: str) -> list[Event]:
        events = self._close_talk(status)
        while self._calls:
            events += self._calls.pop(min(self._calls)).close(cut=True)
        for call in self._server_calls.values():
            events.append(self.finish_item(call.index, call.cut()))
        self._server_calls.clear()
        return events

    def _last(self) -> Event:
        self.ended = True
        return self.event(TERMINAL.get(self.response["status"], "response.incomplete"), response=self.response)

    def _snapshot(self, kind: str) -> Event:
        return self.event(kind, response=dict(self.response))


class _Talk(ABC):
    """A message or a thought: an item with one part of text."""

    kind: str
    prefix: str
    delta: str
    """Name of the events that tell of more text; that of the last ends in `done`."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._id = new_id(self.prefix)
        self._index = sequencer.reserve()
        self._place = {"item_id": self._id, "output_index": self._index, "content_index": 0}
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    @abstractmethod
    def part(self, text: str) -> dict[str, Any]:
        """The item's one part, with so much of its text."""

    def item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {"type": self.kind, "id": self._id, "status": status, "content": content}

    def extra(self, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        """What a delta carries besides its text."""
        return {}

    def open(self) -> list[Event]:
        event = self._sequencer.event
        return [
            event("response.output_item.added", output_index=self._index, item=self.item("in_progress", [])),
            event("response.content_part.added", **self._place, part=self.part("")),
        ]

    def tell(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        if not text and not logprobs:
            return []
        self._texts.append(text)
        self._logprobs += logprobs
        return [self._sequencer.event(f"{self.delta}.delta", **self._place, delta=text, **self.extra(logprobs))]

    def close(self, status: str, sealed: bool) -> list[Event]:
        text = "".join(self._texts)
        part = self.part(text)
        item = self.item(status, [part])
        if sealed and self.kind == "reasoning":
            item["encrypted_content"] = seal(text)
        event = self._sequencer.event
        return [
            event(f"{self.delta}.done", **self._place, text=text, **self.extra(self._logprobs)),
            event("response.content_part.done", **self._place, part=part),
            self._sequencer.finish_item(self._index, item),
        ]


class _Message(_Talk):
    kind, prefix, delta = "message", "msg", "response.output_text"

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._logprobs)}

    def item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {**super().item(status, content), "role": "assistant"}

    def extra(self, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"logprobs": logprobs}


class _Thinking(_Talk):
    kind, prefix, delta = "reasoning", "rs", "response.reasoning_text"

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": text}

    def item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {**super().item(status, content), "summary": []}


class _Call:
    """A call of one of the client's tools."""

    kind: str
    prefix: str
    field: str
    """What the item calls its arguments."""
    delta: str

    def __init__(self, sequencer: Sequencer, offer: Offer, own_id: str) -> None:
        self._sequencer = sequencer
        self._offer = offer
        self._id = new_id(self.prefix)
        self._call_id = own_id or new_id("call")
        self._index = sequencer.reserve()
        self._texts: list[str] = []

    def item(self, arguments: str, status: str) -> dict[str, Any]:
        item = {"type": self.kind, "id": self._id, "call_id": self._call_id, "name": self._offer.name}
        if self._offer.namespace:
            item["namespace"] = self._offer.namespace
        return {**item, self.field: arguments}

    def open(self) -> list[Event]:
        item = self.item("", "in_progress")
        return [self._sequencer.event("response.output_item.added", output_index=self._index, item=item)]

    def tell(self, text: str) -> list[Event]:
        self._texts.append(text)
        return self._delta(text) if text else []

    def _delta(self, text: str) -> list[Event]:
        return [self._sequencer.event(f"{self.delta}.delta", item_id=self._id, output_index=self._index, delta=text)]

    def close(self, cut: bool) -> list[Event]:
        arguments = "".join(self._texts)
        status = "incomplete" if cut and not _is_json(arguments) else "completed"
        return self._done(arguments, status)

    def _done(self, arguments: str, status: str) -> list[Event]:
        place = {"item_id": self._id, "output_index": self._index}
        return [
            self._sequencer.event(f"{self.delta}.done", **place, **{self.field: arguments}),
            self._sequencer.finish_item(self._index, self.item(arguments, status)),
        ]


class _FunctionCall(_Call):
    kind, prefix, field, delta = "function_call", "fc", "arguments", "response.function_call_arguments"

    def item(self, arguments: str, status: str) -> dict[str, Any]:
        return {**super().item(arguments, status), "status": status}


class _CustomCall(_Call):
    """Its text comes as a function's one argument and is told in one piece, once that is whole."""

    kind, prefix, field, delta = "custom_tool_call", "ctc", "input", "response.custom_tool_call_input"

    def tell(self, text: str) -> list[Event]:
        self._texts.append(text)
        return []

    def close(self, cut: bool) -> list[Event]:
        text = _plain_input("".join(self._texts))
        return (self._delta(text) if text else []) + self._done(text, "completed")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _plain_input(arguments: str) -> str:
    """The text for a custom tool; what the model wrote in its place, where that is no such argument."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    found = value.get("input") if isinstance(value, dict) else None
    return found if isinstance(found, str) else arguments
