"""Finds tool calls in a model's text, in Hermes' format: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.

Text in, pieces out; whatever is not a well-formed call stays text. Knows no tokens and no HTTP.
"""

import orjson

from tokenyard.http.turns import Call, CallArguments, CallBegun, CallEnded, Part, Text

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class ToolCallParser:
    """Splits a stream of text into what is shown and whole tool calls.

    From an opening mark on, text is held back until the closing mark; so is white space that a call may follow.
    """

    def __init__(self, max_calls: int | None = None) -> None:
        self._max_calls = max_calls
        """Text and calls after the last one allowed are dropped."""
        self._held = ""
        self.num_calls = 0

    def push(self, text: str) -> list[Part]:
        """The pieces that are certain now, in order."""
        if self.num_calls == self._max_calls:
            return []
        self._held += text
        pieces: list[Part] = []
        while (start := self._held.find(OPEN)) >= 0:
            end = self._held.find(CLOSE, start)
            if end < 0:
                self._show(self._held[:start].rstrip(), pieces)
                self._held = self._held[len(self._held[:start].rstrip()) :]
                return pieces
            call = _parse(self._held[start + len(OPEN) : end])
            end += len(CLOSE)
            if call is None:
                self._show(self._held[:end], pieces)
            else:
                self._show(self._held[:start].rstrip(), pieces)
                self._call(call, pieces)
                if self.num_calls == self._max_calls:
                    self._held = ""
                    return pieces
            self._held = self._held[end:]
        keep = _undecided(self._held)
        self._show(self._held[: len(self._held) - keep], pieces)
        self._held = self._held[len(self._held) - keep :]
        return pieces

    def flush(self) -> list[Part]:
        """The text has ended: a call without its closing mark counts if its JSON is whole."""
        held, self._held = self._held, ""
        pieces: list[Part] = []
        before, mark, inside = held.partition(OPEN)
        call = _parse(inside) if mark else None
        if call is None:
            if held.strip() or not self.num_calls:
                self._show(held, pieces)
            return pieces
        self._show(before.rstrip(), pieces)
        self._call(call, pieces)
        return pieces

    def _show(self, text: str, pieces: list[Part]) -> None:
        if text:
            pieces.append(Text(text))

    def _call(self, call: Call, pieces: list[Part]) -> None:
        number, self.num_calls = self.num_calls, self.num_calls + 1
        pieces += [CallBegun(number, call.name), CallArguments(number, call.arguments), CallEnded(number)]


def _undecided(text: str) -> int:
    """Length of the tail that may yet belong to a call: white space, then a beginning of the opening mark."""
    keep = next((size for size in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:size])), 0)
    before = text[: len(text) - keep]
    return keep + len(before) - len(before.rstrip())


def _parse(inside: str) -> Call | None:
    try:
        value = orjson.loads(inside)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return Call(name, orjson.dumps(arguments).decode())
