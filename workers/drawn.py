"""What a step drew, on its way from the device to the host.

The copies are queued right behind the draw, so that read() waits for them and for nothing that was launched later.
Must not know how tokens are drawn (sampler.py).
"""

from typing import NamedTuple

import torch

BROKEN = -1
"""Stands for a token where a row's logits held NaN or nothing finite."""
BANNED = -2
"""Stands for a token where a row's own parameters ban every one."""


class Logprobs(NamedTuple):
    """Of one emitted token, from unprocessed logits."""

    chosen: float
    top_ids: list[int]
    """Likeliest first."""
    top_values: list[float]


class Sampled(NamedTuple):
    """What one step drew for one sequence."""

    token: int
    """BROKEN or BANNED if there was none to draw."""
    logprobs: Logprobs | None


class LogprobRows(NamedTuple):
    """Logprobs of those rows of a batch that want them, L of N."""

    rows: list[int]
    counts: list[int]
    """How many of the likeliest each of these rows wants."""
    values: torch.Tensor  # [L, 1 + K], the chosen token's first
    ids: torch.Tensor  # [L, K]


class Drawn:
    """One step's tokens [N], and logprobs where they were asked for."""

    def __init__(self, tokens: torch.Tensor, logprobs: LogprobRows | None = None) -> None:
        self.on_device = tokens
        """Not to be waited for."""
        self._tokens = _fetched(tokens)
        self._logprobs = logprobs and logprobs._replace(values=_fetched(logprobs.values), ids=_fetched(logprobs.ids))
        self._done: torch.cuda.Event | None = None
        if tokens.is_cuda:
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def read(self) -> list[Sampled]:
        """Wait for the device; one entry a row."""
        if self._done is not None:
            self._done.synchronize()
        logprobs = self._read_logprobs()
        return [Sampled(token, logprobs.get(row)) for row, token in enumerate(self._tokens.tolist())]

    def _read_logprobs(self) -> dict[int, Logprobs]:
        if self._logprobs is None:
            return {}
        rows, counts, values, ids = self._logprobs
        found = {}
        for row, count, (own, *top_values), top_ids in zip(rows, counts, values.tolist(), ids.tolist(), strict=True):
            found[row] = Logprobs(own, top_ids[:count], top_values[:count])
        return found


def _fetched(tensor: torch.Tensor) -> torch.Tensor:
    """The same on the host, once the device has got there; pinned, as any other copy would wait for it now."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
