"""One streamed answer as the client of the relay benchmark reads it: what text has come, when, and whether it is right.

Pure: no sockets, no clock. While bytes come they are only kept, as the client must not take the cores from what it
measures; they are read after the last one.
"""

import re
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from relay_words import text_of

TEXTS = {
    "/v1/chat/completions": re.compile(rb'"content": ?"([^"]+)"'),
    "/v1/completions": re.compile(rb'"text": ?"([^"]+)"'),
}
"""Where an event holds text, in each API; without spaces, or with them as json.dumps writes them."""
END = b"0\r\n\r\n"
"""Of a body in chunks; text's chunks end in an event's empty line."""
NUM_END = 1000
"""Bytes that hold the end of an answer: two or three events."""


class Texts(NamedTuple):
    """The events with text of an answer, in order."""

    text: bytes
    """Of all of them."""
    ends: npt.NDArray[np.int64]
    """Characters of text up to the end of each."""
    times_s: npt.NDArray[np.float64]
    """When each was there, whole."""


class Answer:
    """What has come of one stream."""

    def __init__(self, path: str, seed: int) -> None:
        self.seed = seed
        self.done = False
        """Whether the body has ended."""
        self._path = path
        self._reads: list[bytes] = []
        self._times_s: list[float] = []
        """Of each read."""

    @property
    def open(self) -> bool:
        """Whether anything has come."""
        return bool(self._reads)

    def take(self, data: bytes, now_s: float) -> None:
        """What has arrived: events in chunks of HTTP, which begin and end between events."""
        self._reads.append(data)
        self._times_s.append(now_s)
        if data[-1:] == b"\n":
            self.done = (data if len(data) >= len(END) else b"".join(self._reads[-len(END) :])).endswith(END)

    @cached_property
    def _whole(self) -> bytes:
        return b"".join(self._reads)

    @cached_property
    def texts(self) -> Texts:
        """To be asked for when all has come."""
        found = list(TEXTS[self._path].finditer(self._whole))
        parts = [one[1] for one in found]
        event_ends = [self._whole.find(b"\n\n", one.end()) + 2 for one in found]
        read_ends = np.cumsum([len(data) for data in self._reads])
        times_s = np.array(self._times_s)[np.searchsorted(read_ends, event_ends)]
        return Texts(b"".join(parts), np.cumsum([len(part) for part in parts]), times_s)

    @property
    def num_events(self) -> int:
        """With text."""
        return len(self.texts.ends)

    @property
    def num_writes(self) -> int:
        """Chunks of HTTP with events: a front makes one a write."""
        return self._whole.count(b"\r\ndata:")

    def fault(self, num_tokens: int) -> str:
        """What is wrong, if it was to have so many tokens; empty: nothing."""
        wanted, _ = text_of(self.seed, num_tokens)
        got, end = self.texts.text.decode(), self._whole[-NUM_END:]
        if got != wanted:
            pairs = enumerate(zip(got, wanted, strict=False))
            same = next((at for at, (one, other) in pairs if one != other), min(len(got), len(wanted)))
            return f"stream {self.seed}: {len(got)} of {len(wanted)} characters, {same} of them right: {end[-300:]!r}"
        for mark in (rb'"finish_reason": ?"length"', rb'"completion_tokens": ?%d\b' % num_tokens, rb"data: \[DONE\]"):
            if len(re.findall(mark, end)) != 1:
                return f"stream {self.seed}: {mark!r} is not there once: {end!r}"
        return "" if self.done else f"stream {self.seed}: the body has no end"

    def arrivals_s(self, num_tokens: int) -> npt.NDArray[np.float64]:
        """When each token's text was there, of an answer without a fault."""
        _, ends = text_of(self.seed, num_tokens)
        return self.texts.times_s[np.searchsorted(self.texts.ends, ends)]

    @property
    def longest_gap_s(self) -> float:
        """Between two events with text."""
        return float(max(np.diff(self.texts.times_s), default=0.0))
