"""Rows that are drawn by chance: temperature, top_k, top_p, min_p and rarer ways to narrow (truncation.py), then noise.

Must not know of penalties and biases, which came before (sampler.py), nor how noise is made (noise.py).
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from tokenyard.broker.params import Params
from tokenyard.workers.noise import log_exponential, row_keys
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.stage import to_device
from tokenyard.workers.truncation import Truncation, is_truncated

GREEDY_BELOW = 1e-5
"""Temperatures below are greedy: logits divided by them would overflow float32 (vLLM's bound too)."""


def is_greedy(params: Params) -> bool:
    """Whether the largest score wins without noise."""
    return params.temperature < GREEDY_BELOW


def num_ranks(params: Params, vocab_size: int) -> int:
    """So many of a row's largest logits must be put in order for top_k and top_p; 0: neither is used."""
    if not params.top_k and params.top_p >= 1:
        return 0
    return min(params.top_k or vocab_size, vocab_size)


def noise_keys(sequences: list[Sequence]) -> np.ndarray:
    """What the noise of the next draws is a function of: int32 [N, 2]."""
    seeds = np.array([one.params.seed for one in sequences], np.uint64)
    return row_keys(seeds, np.array([one.num_drawn for one in sequences], np.uint64))


def log_min_p(params: Params) -> float:
    return math.log(params.min_p) if params.min_p else -math.inf


class Odds(NamedTuple):
    """Parameters of N rows."""

    temperature: torch.Tensor  # float32 [N, 1]
    top_k: torch.Tensor  # an integer type, [N, 1]
    top_p: torch.Tensor  # float32 [N, 1]
    log_min_p: torch.Tensor  # float32 [N, 1]
    num_ranks: int
    """The most that any row needs."""
    uses_min_p: bool

    def shape(self, logits: torch.Tensor, keys: torch.Tensor, vocab: torch.Tensor) -> torch.Tensor:
        """Scores whose largest is the drawn token. logits: [N, V]; keys: [N, 2]; vocab: [V]; the result is new."""
        return self.keep_likely(logits / self.temperature) - log_exponential(keys, vocab)

    def keep_likely(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask all below one threshold a row, so that ties at it stay and no order among them matters."""
        if not (self.num_ranks or self.uses_min_p):
            return logits
        threshold = self.log_min_p + logits.amax(dim=-1, keepdim=True)
        if self.num_ranks:
            ranked = logits.topk(self.num_ranks, dim=-1).values  # [N, num_ranks], descending
            last = ranked.gather(1, self.top_k.long().clamp(1, self.num_ranks) - 1)
            in_top_k = last.where(self.top_k > 0, -math.inf)
            probs = ranked.masked_fill(ranked < in_top_k, -math.inf).softmax(dim=-1)
            num_kept = ((probs.cumsum(dim=-1) - probs) < self.top_p).sum(dim=-1, keepdim=True)
            last = ranked.gather(1, num_kept.clamp(min=1) - 1)
            in_top_p = last.where(self.top_p < 1, -math.inf)
            threshold = threshold.maximum(in_top_k).maximum(in_top_p)
        return logits.masked_fill(logits < threshold, -math.inf)


class Draws:
    """The noisy rows of one batch, N of them; built once for a batch and kept while it stays the same."""

    def __init__(self, sequences: list[Sequence], vocab: torch.Tensor) -> None:
        chosen = [row for row, one in enumerate(sequences) if not is_greedy(one.params)]
        self.sequences = [sequences[row] for row in chosen]
        params = [one.params for one in self.sequences]
        self._vocab = vocab
        self.rows = to_device(chosen, torch.int64, vocab.device)  # [N], into the batch

        def column(values: list[float]) -> torch.Tensor:
            return to_device(values, torch.float32, vocab.device).unsqueeze(1)

        self._odds = Odds(
            temperature=column([one.temperature for one in params]),
            top_k=to_device([[one.top_k] for one in params], torch.int64, vocab.device),
            top_p=column([one.top_p for one in params]),
            log_min_p=column([log_min_p(one) for one in params]),
            num_ranks=max(num_ranks(one, len(vocab)) for one in params),
            uses_min_p=any(one.min_p for one in params),
        )
        self._truncation = Truncation(params, vocab.device) if any(map(is_truncated, params)) else None

    def shape(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores whose largest is the drawn token. logits: [N, V]; the result is new."""
        keys = to_device(noise_keys(self.sequences), torch.int32, self._vocab.device)
        if self._truncation is None:
            return self._odds.shape(logits, keys, self._vocab)
        narrowed = self._odds.keep_likely(self._truncation.first(logits / self._odds.temperature))
        return self._truncation.last(narrowed) - log_exponential(keys, self._vocab)
