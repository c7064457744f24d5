"""Speculation by prompt lookup: what followed the last words the last time they came is guessed to follow again.

Guesses cost a few more tokens in a step that reads the weights anyway; how they are checked is the engine's matter, and
a wrong one changes nothing. Decides only: no torch, no time. Must not know of blocks or logits.
"""

from tokenyard.broker.errors import SetupError
from tokenyard.workers.scheduler import Sequence

WORDS = (4, 2)
"""Tokens that must have come before for what followed them to be guessed: rather four, else two."""
MAX_DRAFTS = 16
"""More are hardly ever all right, and all are computed."""


def parse_speculate(text: str) -> int:
    """How many tokens `--speculate ngram:K` guesses at the most; 0 for the empty text. Raises SetupError."""
    if not text:
        return 0
    method, _, count = text.partition(":")
    if method != "ngram" or not (count.isascii() and count.isdigit() and 0 < int(count) <= MAX_DRAFTS):
        raise SetupError(f"--speculate {text}: give ngram:K, K tokens to guess, from 1 to {MAX_DRAFTS}")
    return int(count)


class Speculation:
    """Guesses for the sequences of one engine."""

    def __init__(self, num_drafts: int) -> None:
        self.num_drafts = num_drafts
        """The most guesses of one sequence in one step; 0: none are made."""
        self.num_guessed = 0
        self.num_confirmed = 0
        self._lookups: dict[Sequence, _Lookup] = {}

    def drafts(self, running: list[Sequence]) -> dict[Sequence, list[int]]:
        """What may follow the known tokens of the sequences that are about to decode."""
        if not self.num_drafts:
            return {}
        found = {}
        for sequence in running:
            if sequence.num_pending == 1 and (drafts := self._lookup(sequence).guess(self.num_drafts)):
                found[sequence] = drafts
        return found

    def forget(self, sequence: Sequence) -> None:
        self._lookups.pop(sequence, None)

    def _lookup(self, sequence: Sequence) -> "_Lookup":
        if sequence not in self._lookups:
            self._lookups[sequence] = _Lookup(sequence)
        return self._lookups[sequence]


class _Lookup:
    """Where each run of tokens of one sequence was last followed by another token."""

    def __init__(self, sequence: Sequence) -> None:
        self._ids = sequence.ids
        self._num_known = 0
        """Runs that end before this token are known."""
        self._next_of: dict[bytes, int] = {}
        """A run's bytes to the place of the token after its last occurrence."""

    def guess(self, most: int) -> list[int]:
        ids = self._ids
        for end in range(self._num_known, len(ids)):
            for length in WORDS:
                if end >= length:
                    self._next_of[ids[end - length : end].tobytes()] = end
        self._num_known = len(ids)
        for length in WORDS:
            place = self._next_of.get(ids[-length:].tobytes())
            if place is not None:
                return ids[place : place + most].tolist()
        return []
