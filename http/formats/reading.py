"""How one turn's text is read while it comes: what is certain goes out as parts, what may yet be a call is held.

Formats are generators over a Reading (marked.py and beside it): each step takes what is there, and yields where it
needs more. Nothing is read twice: what began like a call and turns out to be none is shown as text, and reading goes on
behind it. So the time is linear in the text, whatever the text. Knows no format.
"""

import re
from collections.abc import Callable, Generator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import orjson

from tokenyard.http.stops import undecided_tail
from tokenyard.http.turns import Call, CallArguments, CallBegun, CallEnded, Part, Text, Thought

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Yields where more text is needed, and returns what was read."""
Sink = Callable[[str], None]
Schema = Mapping[str, Any]
"""Of a tool's parameters."""

MAX_NAME = 256
"""Characters of a tool's name; messages.py takes no longer ones."""

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[\w.\-]*")
_QUOTES = "`'\"“‘«"
"""A mark directly behind one of them is spoken of, not meant."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_STRING_SIGN = re.compile(r'["\\]')
_JSON_SIGN = re.compile(r"[\"{}\[\]]|[^\s\w.:,+\-'/]")
"""Outside of strings: what changes the depth, or cannot come in JSON."""


class EndOfText(Exception):
    """Nothing more comes, or nothing more counts."""


class Reading:
    """One turn's text and what came of it so far."""

    def __init__(self, tools: Mapping[str, Schema], max_calls: int | None = None) -> None:
        self.tools = tools
        """Parameters of the known tools by name. Their calls go out while they are written."""
        self.parts: list[Part] = []
        self.num_calls = 0
        self.thinking = False
        self.settled = False
        """Whether all that comes is shown as it is."""
        self.ended = False
        """Whether all of the text is there."""
        self._max_calls = max_calls
        self._text = ""
        self._at = 0
        """Of `_text`, what is before this was read."""
        self._held: list[str] = []
        """Read, but neither shown nor made part of a call yet."""
        self._calling = False
        self._quoted = False
        """Whether the last character shown is a quotation mark."""

    # What comes out.

    def hold(self, text: str) -> None:
        self._held.append(text)

    def drop(self) -> None:
        """What is held was marks and white space around them."""
        self._held.clear()

    def show(self, text: str = "") -> None:
        """What is held, and then this, is text."""
        if self._held:
            text = "".join(self._held) + text
            self._held.clear()
        if not text:
            return
        self._quoted = text[-1] in _QUOTES
        if self.parts and isinstance(last := self.parts[-1], Text):
            self.parts[-1] = Text(last.text + text)
        else:
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
        self.parts.append(CallBegun(self.num_calls, name, own_id))
        self.num_calls += 1

    def argue(self, text: str) -> None:
        if text:
            self.parts.append(CallArguments(self.num_calls - 1, text))

    def end_call(self) -> None:
        """Raises EndOfText after the last call that counts."""
        self._calling = False
        self.parts.append(CallEnded(self.num_calls - 1))
        if self.num_calls == self._max_calls:
            self._text = ""
            raise EndOfText

    def close(self) -> None:
        """The end, wherever reading stood: an open call ends, what is held is text, unless it is only white space."""
        self._advance(len(self._text), self.argue if self._calling else self.hold)
        if self._calling:
            self._calling = False
            self.parts.append(CallEnded(self.num_calls - 1))
        elif not (self.num_calls and "".join(self._held).isspace()):
            self.show()

    # What goes in.

    def feed(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def more(self) -> Steps[None]:
        """Wait for text. Raises EndOfText if none comes."""
        if self.ended:
            raise EndOfText
        yield

    def at(self, char: str) -> Steps[bool]:
        """Whether this character comes next."""
        while self._at == len(self._text):
            if self.ended:
                return False
            yield
        return self._text[self._at] == char

    def take(self, *literals: str) -> Steps[str]:
        """Hold the one of these that comes next, none of which begins another; empty if it is none of them."""
        longest = max(map(len, literals))
        while True:
            ahead = self._text[self._at : self._at + longest]
            for literal in literals:
                if ahead.startswith(literal):
                    self._advance(self._at + len(literal), self.hold)
                    return literal
            if self.ended or not any(literal.startswith(ahead) for literal in literals):
                return ""
            yield

    def space(self) -> Steps[None]:
        """Hold white space."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._advance(match.end(), self.hold)
            if self._at < len(self._text) or self.ended:
                return
            yield

    def sign(self, *literals: str) -> Steps[str]:
        """As `take`, after white space."""
        yield from self.space()
        return (yield from self.take(*literals))

    def name(self) -> Steps[str]:
        """Hold what may be a tool's name; empty if it is none."""
        while True:
            match = _NAME.match(self._text, self._at, self._at + MAX_NAME + 1)
            assert match is not None
            if match.end() - self._at > MAX_NAME:
                return ""
            if match.end() < len(self._text) or self.ended:
                self._advance(match.end(), self.hold)
                return match[0]
            yield

    def rest(self) -> Steps[None]:
        """All that comes is text."""
        while True:
            self._advance(len(self._text), self.show)
            self.settled = True
            yield from self.more()

    def copy_until(self, ends: tuple[str, ...], sink: Sink) -> Steps[str]:
        """Pass text on until one of these comes, which is read as well. Raises EndOfText if none does."""
        pattern = _any_of(ends)
        while True:
            if match := pattern.search(self._text, self._at):
                self._advance(match.start(), sink)
                self._at = match.end()
                return match[0]
            keep = 0 if self.ended else undecided_tail(self._text, self._at, ends)
            self._advance(len(self._text) - keep, sink)
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

    def string(self) -> Steps[str]:
        """Hold a JSON string no longer than a name, after white space, with its quotes; empty if it is none."""
        yield from self.space()
        while True:
            ahead = self._text[self._at : self._at + MAX_NAME + 2]
            if match := _STRING.match(ahead):
                self._advance(self._at + match.end(), self.hold)
                return match[0]
            if self.ended or len(ahead) == MAX_NAME + 2 or ahead[:1] not in ('"', ""):
                return ""
            yield

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
        self.begin_call(call.name)
        self.argue(call.arguments)
        self.end_call()
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
        self.begin_call(name, own_id)
        self.argue(arguments)
        self.end_call()
        return True

    def _stream_call(self, name: str, own_id: str = "") -> Steps[None]:
        self.begin_call(name, own_id)
        yield from self.json(self.argue)
        self.end_call()

    def _advance(self, end: int, sink: Sink) -> None:
        if end > self._at:
            text = self._text[self._at : end]
            self._at = end
            sink(text)


def loads(text: str) -> Any:
    """The value of JSON; None, too, for what is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _read_call(text: str) -> Call | None:
    """A call whose keys come in another order, or whose arguments are absent or a string that holds them."""
    value = loads(text)
    if type(value) is not dict or type(name := value.get("name")) is not str or not 0 < len(name) <= MAX_NAME:
        return None
    arguments: Any = next((value[key] for key in ("arguments", "parameters") if value.get(key) is not None), {})
    if type(arguments) is str and type(loads(arguments)) is dict:
        return Call(name, arguments)
    return Call(name, orjson.dumps(arguments).decode()) if type(arguments) is dict else None


@lru_cache(64)
def _any_of(literals: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, literals)))


class Trimmed:
    """Passes text on without the white space around it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._space: list[str] = []
        self._begun = False

    def __call__(self, text: str) -> None:
        words = text.rstrip()
        if not words:
            self._space.append(text)
            return
        space, self._space = "".join(self._space), [text[len(words) :]]
        self._sink(space + words if self._begun else (space + words).lstrip())
        self._begun = True
