"""What one turn's text is read into: what is certain goes out as parts, what may yet be a call is held.

Formats are steps over a Reading (marked.py and beside it). What began like a call and turns out to be none is shown as
text, and reading goes on behind it. Knows no format but JSON.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenyard.http.formats.source import MAX_NAME, EndOfText, Sink, Source, Steps
from tokenyard.http.formats.values import Schema, dumps, loads
from tokenyard.http.turns import Call, CallArguments, CallBegun, CallEnded, Part, Text, Thought

_QUOTES = "`'\"“‘«"
"""A mark directly behind one of them is spoken of, not meant."""
_STRING_SIGN = re.compile(r'["\\]')
_JSON_SIGN = re.compile(r"[\"{}\[\]]|[^\s\w.:,+\-'/]")
"""Outside of strings: what changes the depth, or cannot come in JSON."""


class Reading(Source):
    """One turn's text and what came of it so far."""

    def __init__(
        self, tools: Mapping[str, Schema], max_calls: int | None = None, new_id: Callable[[], str] | None = None
    ) -> None:
        super().__init__()
        self.tools = tools
        """Parameters of the known tools by name. Their calls go out while they are written."""
        self.parts: list[Part] = []
        self.num_calls = 0
        self.thinking = False
        self.settled = False
        """Whether all that comes is shown as it is."""
        self.max_calls = max_calls
        """Text and calls after the last one allowed are dropped."""
        self._new_id = new_id
        self._calling = False
        self._quoted = False
        """Whether the last character shown is a quotation mark."""

    # Parts.

    def show(self, text: str = "") -> None:
        """What is held, and then this, is text."""
        if self._held:
            text = "".join(self._held) + text
            self._held.clear()
        if not text:
            return
        self._quoted = text[-1] in _QUOTES
        self.parts.append(Text(text))

    def show_words(self, text: str) -> None:
        """As `show`, but white space at the end stays held: a call may follow, which swallows it."""
        if words := text.rstrip():
            self.show(words)
        if len(words) < len(text):
            self._quoted = False
            self.hold(text[len(words) :])

    def think(self, text: str) -> None:
        self.parts.append(Thought(text))

    def begin_call(self, name: str, own_id: str = "") -> None:
        self.drop()
        self._calling = True
        if not own_id and self._new_id is not None:
            own_id = self._new_id()
        self.parts.append(CallBegun(self.num_calls, name, own_id))
        self.num_calls += 1

    def argue(self, text: str) -> None:
        if text:
            self.parts.append(CallArguments(self.num_calls - 1, text))

    def end_call(self) -> None:
        """Raises EndOfText after the last call that counts."""
        self._calling = False
        self.drop()
        self.parts.append(CallEnded(self.num_calls - 1))
        if self.num_calls == self.max_calls:
            self._text = ""
            raise EndOfText

    def whole_call(self, call: Call) -> None:
        self.begin_call(call.name, call.id)
        self.argue(call.arguments)
        self.end_call()

    def close(self) -> None:
        """The end, wherever reading stood: an open call ends, what is held is text, unless it is only white space."""
        self._advance(len(self._text), self.argue if self._calling else self.hold)
        if self._calling:
            self._calling = False
            self.parts.append(CallEnded(self.num_calls - 1))
        elif not (self.num_calls and self.held.isspace()):
            self.show()

    # Text.

    def rest(self) -> Steps[None]:
        """All that comes is text."""
        while True:
            self._advance(len(self._text), self.show)
            self.settled = True
            yield from self.more()

    def text_until(self, marks: tuple[str, ...]) -> Steps[str]:
        """Show text until one of these marks is meant, which is held with the white space before it."""
        while True:
            mark = yield from self.copy_until(marks, self.show_words)
            if not self._quoted:
                self.hold(mark)
                return mark
            self.show(mark)

    # JSON.

    def json(self, sink: Sink, depth: int = 0) -> Steps[bool]:
        """Pass on a JSON object or array, or the rest of one that is `depth` deep, as it comes.

        False, at what cannot be JSON; of the rest only quotes and brackets are looked at.
        """
        if depth == 0 and not ((yield from self.at("{")) or (yield from self.at("["))):
            return False
        at, quoted = self._at, False
        while True:
            match = (_STRING_SIGN if quoted else _JSON_SIGN).search(self._text, at)
            if match is None or (quoted and match[0] != '"' and match.end() == len(self._text)):
                # what a backslash escapes may be a quote, and is not there yet
                self._advance(len(self._text) if match is None else match.start(), sink)
                yield from self.more()
                at = self._at
                continue
            at, sign = match.end(), match[0]
            if quoted:
                quoted = sign != '"'
                at += quoted
            elif sign == '"':
                quoted = True
            elif sign in "{}[]":
                depth += 1 if sign in "{[" else -1
                if depth <= 0:
                    self._advance(at, sink)
                    return True
            else:
                self._advance(match.start(), sink)
                return False

    def json_call(self, *, unknown: bool) -> Steps[bool]:
        """`{"name": …, "arguments": {…}}`, after white space. False if it is none, with what was read held.

        With `unknown`, tools that nobody offered may be called.
        """
        start = len(self._held)
        if not (yield from self.sign("{")):
            return False
        name = yield from self._json_head()
        if name in self.tools:
            yield from self._stream_call(name)
            yield from self.json(self.hold, depth=1)
            self.drop()
            return True
        if not (yield from self.json(self.hold, depth=1)):
            return False
        call = _read_call("".join(self._held[start:]))
        if call is None or not (unknown or call.name in self.tools):
            return False
        self.whole_call(call)
        return True

    def _json_head(self) -> Steps[str]:
        """The tool's name, if its arguments are what follows."""
        if (yield from self.string()) != '"name"' or not (yield from self.sign(":")):
            return ""
        name = yield from self.string()
        if not name or not (yield from self.sign(",")):
            return ""
        if (yield from self.string()) not in ('"arguments"', '"parameters"') or not (yield from self.sign(":")):
            return ""
        yield from self.space()
        return name[1:-1] if (yield from self.at("{")) else ""

    def named_call(self, name: str, own_id: str = "") -> Steps[bool]:
        """The arguments of a named tool as a JSON object, after white space. False as in `json_call`."""
        yield from self.space()
        if not name or not (yield from self.at("{")):
            return False
        if name in self.tools:
            yield from self._stream_call(name, own_id)
            return True
        start = len(self._held)
        whole = yield from self.json(self.hold)
        arguments: str = "".join(self._held[start:])
        if not whole or type(loads(arguments)) is not dict:
            return False
        self.whole_call(Call(name, arguments, own_id))
        return True

    def _stream_call(self, name: str, own_id: str = "") -> Steps[None]:
        self.begin_call(name, own_id)
        yield from self.json(self.argue)
        self.end_call()


def _read_call(text: str) -> Call | None:
    """A call whose keys come in another order, or whose arguments are absent or a string that holds them."""
    value = loads(text)
    if type(value) is not dict or type(name := value.get("name")) is not str or not 0 < len(name) <= MAX_NAME:
        return None
    arguments: Any = next((value[key] for key in ("arguments", "parameters") if value.get(key) is not None), {})
    if type(arguments) is str and type(loads(arguments)) is dict:
        return Call(name, arguments)
    return Call(name, dumps(arguments)) if type(arguments) is dict else None
