"""A text while it comes, and the steps that take of it.

A step is a generator: it takes what is there, and yields where it needs more. Nothing is read twice, so the time is
linear in the text, whatever the text. Must not know what the text means.
"""

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeVar

from tokenyard.http.stops import undecided_tail

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Yields where more text is needed, and returns what was read."""
Sink = Callable[[str], None]

MAX_NAME = 256
"""Characters of a tool's name; messages.py takes no longer ones."""

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[\w.\-]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


class EndOfText(Exception):
    """Nothing more comes, or nothing more counts."""


class Source:
    """The text that has come. What a step *holds* is read, and it is not decided yet what becomes of it."""

    def __init__(self) -> None:
        self.ended = False
        """Whether all of the text is there."""
        self._text = ""
        self._at = 0
        """Of `_text`, what is before this was read."""
        self._held: list[str] = []

    def hold(self, text: str) -> None:
        self._held.append(text)

    def drop(self) -> None:
        """What is held was marks and white space around them."""
        self._held.clear()

    @property
    def held(self) -> str:
        return "".join(self._held)

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

    def header(self, end: str, longest: int) -> Steps[str]:
        """Hold all up to this mark and the mark, and return what is held; empty if the mark does not come soon."""
        while True:
            at = self._text.find(end, self._at, self._at + longest)
            if at >= 0:
                self._advance(at + len(end), self.hold)
                return self.held
            if self.ended or len(self._text) - self._at >= longest:
                return ""
            yield

    def copy_to(self, pattern: re.Pattern[str], sink: Sink) -> Steps[str]:
        """Pass text on up to a character that matches, which stays unread. Raises EndOfText if none comes."""
        while True:
            match = pattern.search(self._text, self._at)
            self._advance(match.start() if match else len(self._text), sink)
            if match:
                return match[0]
            yield from self.more()

    def copy_one(self, sink: Sink) -> Steps[None]:
        """Pass one character on."""
        while self._at == len(self._text):
            yield from self.more()
        self._advance(self._at + 1, sink)

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

    def _advance(self, end: int, sink: Sink) -> None:
        if end > self._at:
            text = self._text[self._at : end]
            self._at = end
            sink(text)


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
