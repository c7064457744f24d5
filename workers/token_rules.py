"""Which tokens a sequence may not draw next, and which ones gain: what its parameters say of single tokens.

Meaning is that of transformers' processors of the same names. Must not know of torch, nor of batches (processors.py).
"""

import math
from array import array
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import MAX_LISTED_IDS, MAX_RUN_TOKENS, MAX_RUNS, Params, Processors
from tokenyard.workers.scheduler import Sequence

Ids = np.ndarray[tuple[int], np.dtype[np.int64]]
Values = np.ndarray[tuple[int], np.dtype[np.float32]]
NO_IDS: Ids = np.zeros(0, np.int64)
MAX_LOG_GAIN = math.log(1e30)
"""A score times more would leave float32."""


def refuse_impossible(asked: Processors, vocab_size: int) -> None:
    """Raise TokenyardError for what the front should have refused."""
    words, biased = asked.bad_words, [one.token_ids for one in asked.sequence_bias]
    for param, runs in (("bad_words", words), ("sequence_bias", biased)):
        if len(runs) > MAX_RUNS or not all(0 < len(run) <= MAX_RUN_TOKENS for run in runs):
            raise TokenyardError("invalid_value", f"{param}: too many tokens, or a run of none", param)
    lists = (asked.allowed_token_ids, asked.forced_eos_token_ids, asked.suppress_tokens, asked.begin_suppress_tokens)
    if any(len(ids) > MAX_LISTED_IDS for ids in lists):
        raise TokenyardError("invalid_value", f"a list of token ids has over {MAX_LISTED_IDS:,}")
    if any(not 0 <= token < vocab_size for ids in (*words, *biased, *lists) for token in ids):
        raise TokenyardError("invalid_value", f"token ids must be below {vocab_size:,}")
    if not (
        0 < asked.decay_factor < math.inf
        and asked.decay_start >= 0
        and asked.no_repeat_ngram_size >= 0
        and all(math.isfinite(one.bias) for one in asked.sequence_bias)
        and 0 < asked.typical_p <= 1
        and all(0 <= share <= 1 for share in (asked.top_h, asked.epsilon_cutoff, asked.eta_cutoff))
    ):
        raise TokenyardError("invalid_value", "a logits processor's number is out of range")


def repeated(ids: "array[int]", size: int) -> Ids:
    """The tokens that would repeat a run of `size` tokens of `ids`."""
    known = np.frombuffer(ids, np.uint32)
    if size > len(known):
        return NO_IDS
    ends = (
        np.arange(size - 1, len(known)) if size == 1 else np.flatnonzero(known[size - 2 : -1] == known[-1]) + size - 1
    )
    for back in range(2, size):
        if not len(ends):
            break
        ends = ends[known[ends - back] == known[-back]]
    return known[ends].astype(np.int64)


class Endings:
    """Runs of two tokens or more, each with a value for its last token, found by the tokens before that."""

    def __init__(self, runs: Iterable[tuple[list[int], float]]) -> None:
        self._by_length: dict[int, dict[bytes, list[tuple[int, float]]]] = {}
        """By number of tokens before the last, then by those tokens."""
        for run, value in runs:
            endings = self._by_length.setdefault(len(run) - 1, {})
            endings.setdefault(array("I", run[:-1]).tobytes(), []).append((run[-1], value))

    def __bool__(self) -> bool:
        return bool(self._by_length)

    def after(self, ids: "array[int]") -> list[tuple[int, float]]:
        """What may now be completed."""
        found: list[tuple[int, float]] = []
        for length, endings in self._by_length.items():
            found += endings.get(ids[-length:].tobytes(), ())
        return found


class Next(NamedTuple):
    """What applies to one draw only."""

    banned: list[int]
    gain: float
    """Share of its own size by which a stop token's score grows."""
    forced: list[int] | None
    """The only tokens that may come, if there is such a rule for this place."""


class TokenRules:
    """One sequence's rules: most hold for every draw; bias_endings and next() tell the rest."""

    def __init__(self, params: Params) -> None:
        asked = params.processors
        assert asked is not None
        self._params = params
        self._asked = asked
        stops = params.stop_token_ids
        words = [word for word in asked.bad_words if len(word) > 1 or word[0] not in stops]
        self._bad_endings = Endings((word, -math.inf) for word in words if len(word) > 1)
        self.bias_endings = Endings(one for one in asked.sequence_bias if len(one.token_ids) > 1)
        single_words = [word[0] for word in words if len(word) == 1]
        self.banned: Ids = np.array([*asked.suppress_tokens, *single_words], np.int64)
        self.allowed: Ids = np.array(asked.allowed_token_ids, np.int64)
        """Empty: all."""
        self.biases = [(one.token_ids[0], one.bias) for one in asked.sequence_bias if len(one.token_ids) == 1]
        """Added before penalties."""
        self.replaces_invalid = asked.remove_invalid_values
        self.stop_ids: Ids = np.array(stops, np.int64)
        self.changes = bool(
            self._bad_endings
            or asked.no_repeat_ngram_size
            or asked.begin_suppress_tokens
            or asked.decay_factor != 1
            or asked.forced_eos_token_ids
        )
        """Whether next() can ever say anything."""

    def next(self, sequence: Sequence) -> Next:
        """What else applies to the token that is drawn next."""
        asked, params, index = self._asked, self._params, sequence.num_drawn
        banned = [token for token, _ in self._bad_endings.after(sequence.ids)]
        if asked.no_repeat_ngram_size:
            banned += repeated(sequence.ids, asked.no_repeat_ngram_size).tolist()
        if index == 0:
            banned += asked.begin_suppress_tokens
        forced = None
        if asked.forced_eos_token_ids and index == params.max_tokens - 1:
            suppressed = {*asked.suppress_tokens, *(asked.begin_suppress_tokens if index == 0 else ())}
            forced = [token for token in asked.forced_eos_token_ids if token not in suppressed]
        return Next(banned, self._gain(index), forced)

    def _gain(self, index: int) -> float:
        num_late = index - self._asked.decay_start
        if num_late <= 0 or self._asked.decay_factor == 1:
            return 0.0
        return math.expm1(min(num_late * math.log(self._asked.decay_factor), MAX_LOG_GAIN))
