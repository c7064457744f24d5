"""The logprobs of a prompt's own tokens, put together from a job's deltas. Pure state."""

from array import array
from typing import Any, NamedTuple


class PromptToken(NamedTuple):
    """One token, given those before it."""

    token_id: int
    logprob: float
    rank: int
    """1: none was likelier."""
    top: list[tuple[int, float]]
    """The likeliest, as many as were asked for."""


class PromptScores:
    """Of one prompt. An attempt that follows a lost one may tell again what came already: each token counts once."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids
        self.tokens: list[PromptToken] = []
        """From the prompt's second token on: nothing precedes the first."""

    def push(self, told: list[Any]) -> None:
        """Take `extra.prompt_logprobs` of one delta (docs/protocol.md)."""
        first, *packed = told
        chosen, ranks, values, ids = (array(kind, one) for one, kind in zip(packed, "fIfI", strict=True))
        most = len(ids) // len(chosen)
        for at in range(len(self.tokens) + 1 - first, len(chosen)):
            own = slice(at * most, (at + 1) * most)
            top = list(zip(ids[own].tolist(), values[own].tolist(), strict=True))
            self.tokens.append(PromptToken(self._ids[first + at], chosen[at], ranks[at], top))
