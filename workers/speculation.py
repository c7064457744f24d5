"""Speculation by prompt lookup: what followed the last words the last time they came is guessed to follow again.

Guesses cost a few more tokens in a step that reads the weights anyway; how they are checked is the engine's matter, and
a wrong one changes nothing. A sequence whose guesses seldom come right stops guessing for a while. Decides only: no
torch, no time. Must not know of blocks or logits.
"""

import sys

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import MAX_DRAFTS, OFF
from tokenyard.workers.scheduler import Sequence

WORDS = (4, 2)
"""Tokens that must have come before for what followed them to be guessed: rather four, else two."""
TRIAL = 16
"""Guessed tokens of one sequence after which it is judged: four steps of four."""
LEAST_RIGHT = TRIAL // 4
"""Of a trial, to go on: on a CPU four guesses make the step of one stream 1.6 times as long (docs/performance.md)."""
REST = 64
"""Tokens for which a sequence guesses nothing after a bad trial; then it is tried again, as texts change."""


def parse_speculate(text: str) -> int:
    """How many tokens `--speculate ngram:K` guesses at the most; 0 for the empty text and `off`. Raises SetupError."""
    if text in ("", OFF):
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
        self._guessers: dict[Sequence, _Guesser] = {}

    def may_guess(self, running: list[Sequence]) -> bool:
        """Whether tokens that are being drawn could bring a guess, so that it pays to wait for their ids."""
        return self.num_drafts > 0 and any(self._guesser(one).may_guess() for one in running)

    def drafts(self, running: list[Sequence], most: int = sys.maxsize) -> dict[Sequence, list[int]]:
        """What may follow the known tokens of the sequences that are about to decode; `most` tokens in all."""
        if not self.num_drafts:
            return {}
        found = {}
        for sequence in running:
            count = min(self.num_drafts, most)
            known = sequence.num_pending == 1 and len(sequence.ids) == sequence.num_tokens
            if known and count > 0 and (drafts := self._guesser(sequence).guess(count)):
                found[sequence] = drafts
                most -= len(drafts)
        return found

    def judge(self, sequence: Sequence, num_guessed: int, num_right: int) -> None:
        """Hear what came of a sequence's guesses in one step."""
        self.num_guessed += num_guessed
        self.num_confirmed += num_right
        if sequence in self._guessers:  # else it has ended
            self._guessers[sequence].judge(num_guessed, num_right)

    def figures(self) -> dict[str, int]:
        """For people and for the beat; none where nothing is guessed."""
        return {"guessed": self.num_guessed, "confirmed": self.num_confirmed} if self.num_drafts else {}

    def forget(self, sequence: Sequence) -> None:
        self._guessers.pop(sequence, None)

    def _guesser(self, sequence: Sequence) -> "_Guesser":
        if sequence not in self._guessers:
            self._guessers[sequence] = _Guesser(sequence)
        return self._guessers[sequence]


class _Guesser:
    """Where each run of tokens of one sequence was last followed by another token, and how often that was right."""

    def __init__(self, sequence: Sequence) -> None:
        self._ids = sequence.ids
        self._num_known = 0
        """Runs that end before this token are known."""
        self._next_of: dict[bytes, int] = {}
        """A run's bytes to the place of the token after its last occurrence."""
        self._first_of: set[int] = set()
        """Tokens with which a known run of the shortest length begins."""
        self._num_guessed = 0
        self._num_right = 0
        """Of this trial."""
        self._rests_until = 0
        """Nothing is guessed while it has fewer tokens."""

    def may_guess(self) -> bool:
        """Whether guess() could give something once one more token is known: a known run must begin with the last."""
        if len(self._ids) + 1 < self._rests_until:
            return False
        self._learn()
        last = self._ids[-1]
        return last in self._first_of or last in self._ids[-2:-1]  # that run is known once the next token is

    def guess(self, most: int) -> list[int]:
        ids = self._ids
        if len(ids) < self._rests_until:
            return []
        self._learn()
        for length in WORDS:
            place = self._next_of.get(ids[-length:].tobytes())
            if place is not None:
                return ids[place : place + most].tolist()
        return []

    def judge(self, num_guessed: int, num_right: int) -> None:
        self._num_guessed += num_guessed
        self._num_right += num_right
        if self._num_guessed >= TRIAL:
            if self._num_right * TRIAL < self._num_guessed * LEAST_RIGHT:
                self._rests_until = len(self._ids) + REST
            self._num_guessed = self._num_right = 0

    def _learn(self) -> None:
        """Take in the runs that are followed by another token."""
        ids = self._ids
        for end in range(self._num_known, len(ids)):
            for length in WORDS:
                if end >= length:
                    self._next_of[ids[end - length : end].tobytes()] = end
            if end >= WORDS[-1]:
                self._first_of.add(ids[end - WORDS[-1]])
        self._num_known = len(ids)
