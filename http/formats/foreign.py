"""Formats that are none of ours: read by transformers' ResponseParser, by the tokenizer's `response_template`.

That parser raises at what it cannot read, and shows nothing of what it read until then; here, that is text. A call
comes out once it is whole.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, load_response_template

from tokenyard.http.formats.values import Schema
from tokenyard.http.turns import Call, CallArguments, CallBegun, CallEnded, Part, Text, Thought

MAX_PENDING = 1024
"""Characters outside of a call that may begin a mark: the parser looks at them again with each that follows."""
FAILURES = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What the parser raises at text that does not fit its template."""

_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Fields that transformers takes for reasoning (chat_template_utils)."""
_CALLS = "tool_calls"
_BITS = re.compile(r"[\w\s]+|[^\w\s]")
"""What is fed at once. Marks end with a sign, so that what came before it was fed, and told, before it can fail."""


def load_template(spec: Any) -> ResponseTemplate | None:
    """A tokenizer's response_template; None for what is none."""
    try:
        return load_response_template(spec) if spec is not None else None
    except FAILURES:
        return None


def marks_of(template: ResponseTemplate) -> tuple[str, ...]:
    """Texts that hold all marks of a template."""
    patterns = [one for field in template.fields.values() for one in (field.open_re, field.close_re) if one is not None]
    return tuple(re.sub(r"\\(.)", r"\1", pattern.pattern) for pattern in patterns)


def has_calls(template: ResponseTemplate) -> bool:
    return _CALLS in template.fields


class ForeignParser:
    """Reads one turn by a response template."""

    settled = False

    def __init__(
        self, template: ResponseTemplate, prompt: str, tools: Mapping[str, Schema] | None, max_calls: int | None
    ) -> None:
        self._template = template
        self._tools: list[Any] = [
            {"function": {"name": name, "parameters": one}} for name, one in (tools or {}).items()
        ]
        self._max_calls = max_calls if tools is not None else 0
        self.num_calls = 0
        self._field: str | None = None
        """Where the text goes now; None: to the answer."""
        self._pending: list[str] = []
        """Fed, and neither told nor made a call."""
        self._num_pending = 0
        self._parts: list[Part] = []
        self._parser = ResponseParser(template, prefix=prompt, tools=self._tools)
        for event in self._parser.initial_events:
            self._follow(event)
        self._parts.clear()
        self._told()

    @property
    def thinking(self) -> bool:
        return self._field in _THOUGHTS

    def push(self, text: str) -> list[Part]:
        for bit in _BITS.findall(text):
            if self._is_over():
                break
            self._pending.append(bit)
            self._num_pending += len(bit)
            try:
                events = self._parser.feed(bit)
            except FAILURES:
                self._give_up()
                continue
            for event in events:
                self._follow(event)
            if events and events[-1]["type"] == "region_close":
                self._told()  # a mark that ends a region belongs to it; one that begins the next does not
            if self._field != _CALLS and self._num_pending > MAX_PENDING:
                self._give_up()
            self._forget_what_is_read()
        return self._take()

    def flush(self) -> list[Part]:
        if not self._is_over():
            try:
                _, events = self._parser.finalize()
            except FAILURES:
                self._give_up()
            else:
                for event in events:
                    self._follow(event)
                if self._field == _CALLS:
                    self._give_up()
        return self._take()

    def _is_over(self) -> bool:
        return bool(self._max_calls) and self.num_calls == self._max_calls

    def _follow(self, event: dict[str, Any]) -> None:
        field = event["field"]
        if event["type"] == "region_open":
            self._field = field
        elif event["type"] == "region_chunk":
            if field == _CALLS:
                return
            self._parts.append(Thought(event["text"]) if field in _THOUGHTS else Text(event["text"]))
            self._told()
        else:
            self._field = None
            if field == _CALLS:
                self._call(event["value"])
                self._told()

    def _call(self, value: Any) -> None:
        calls = [_read_call(one) for one in (value if isinstance(value, list) else [value])]
        if self._max_calls == 0 or not calls or None in calls:
            self._parts.append(Text("".join(self._pending)))
            return
        for call in calls:
            if call is not None and not self._is_over():
                begun = CallBegun(self.num_calls, call.name, call.id)
                self._parts += [begun, CallArguments(self.num_calls, call.arguments), CallEnded(self.num_calls)]
                self.num_calls += 1

    def _give_up(self) -> None:
        """What is pending is text, and a new parser goes on behind it."""
        self._parts.append(Text("".join(self._pending)))
        self._told()
        self._field = None
        self._parser = ResponseParser(self._template, prefix="", tools=self._tools)

    def _told(self) -> None:
        self._pending.clear()
        self._num_pending = 0

    def _forget_what_is_read(self) -> None:
        """Of all the turn's text, which the parser copies with each push."""
        parser = self._parser
        parser._buffer, parser._pos = parser._buffer[parser._pos :], 0

    def _take(self) -> list[Part]:
        parts, self._parts = [part for part in self._parts if part != Text("")], []
        return parts


def _read_call(value: Any) -> Call | None:
    """Of the message's shape, `{"type": "function", "function": {"name": …, "arguments": …}}`, or what is inside."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str):
        return None
    arguments = function.get("arguments", {})
    own_id = value.get("id")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(name, text, own_id if isinstance(own_id, str) else "")
