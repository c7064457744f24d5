"""One streamed answer as the client of the relay benchmark reads it: what text has come, when, and whether it is right.

Pure: no sockets, no clock. While bytes come it does little; the rest is for after the last one.
"""

import re
from collections import deque

import numpy as np
import numpy.typing as npt
from relay_words import text_of

TEXTS = {
    "/v1/chat/completions": re.compile(rb'"content": ?"([^"]+)"'),
    "/v1/completions": re.compile(rb'"text": ?"([^"]+)"'),
}
"""Where an event holds text, in each API; without spaces, or with them as json.dumps writes them."""
NUM_LAST = 8
"""So many of the last reads are kept: the end of an answer is two or three writes."""


class Answer:
    """What has come of one stream."""

    def __init__(self, path: str, seed: int) -> None:
        self.seed = seed
        self.open = False
        """Whether anything has come."""
        self.done = False
        """Whether the body has ended."""
        self.num_events = 0
        """With text."""
        self.num_writes = 0
        """Chunks of HTTP with events: a front makes one a write."""
        self.times_s: list[float] = []
        """Of the reads with text."""
        self.sizes: list[int] = []
        """Characters of text that were there after each of them."""
        self._text = bytearray()
        self._find = TEXTS[path].findall
        self._rest = b""
        """What has come of an event that is not whole."""
        self._last: deque[bytes] = deque(maxlen=NUM_LAST)

    def take(self, data: bytes, now_s: float) -> None:
        """What has arrived: events in chunks of HTTP, which begin and end between events."""
        self.open = True
        data = self._rest + data
        cut = data.rfind(b"\n\n") + 2
        whole, self._rest = (data[:cut], data[cut:]) if cut > 1 else (b"", data)
        self._last.append(whole)
        self.num_writes += whole.count(b"\r\ndata:")
        if texts := self._find(whole):
            self._text += b"".join(texts)
            self.num_events += len(texts)
            self.times_s.append(now_s)
            self.sizes.append(len(self._text))
        if self._rest.endswith(b"0\r\n\r\n"):
            self.done = True

    def fault(self, num_tokens: int) -> str:
        """What is wrong, if it was to have so many tokens; empty: nothing."""
        wanted, _ = text_of(self.seed, num_tokens)
        got, end = self._text.decode(), b"".join(self._last) + self._rest
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
        return np.array(self.times_s)[np.searchsorted(self.sizes, ends)]

    @property
    def longest_gap_s(self) -> float:
        """Between two reads with text."""
        return float(max(np.diff(self.times_s), default=0.0))
