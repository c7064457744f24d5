"""Rows that are drawn by chance: temperature, top_k, top_p, min_p, then noise.

Built once for a batch and kept while it stays the same. Must not know of penalties and biases, which came before
(sampler.py), nor how noise is made (noise.py).
"""

import math

import numpy as np
import torch

from tokenyard.broker.params import Params
from tokenyard.workers.noise import log_exponential, row_keys
from tokenyard.workers.scheduler import Sequence

GREEDY_BELOW = 1e-5
"""Temperatures below are greedy: logits divided by them would overflow float32 (vLLM's bound too)."""


def is_greedy(params: Params) -> bool:
    """Whether the largest score wins without noise."""
    return params.temperature < GREEDY_BELOW


class Draws:
    """The noisy rows of one batch, N of them, and their parameters as tensors [N, 1]."""

    def __init__(self, sequences: list[Sequence], vocab: torch.Tensor) -> None:
        device = vocab.device
        chosen = [row for row, one in enumerate(sequences) if not is_greedy(one.params)]
        self.sequences = [sequences[row] for row in chosen]
        params = [one.params for one in self.sequences]
        self._vocab = vocab
        self.rows = torch.tensor(chosen, dtype=torch.int64, device=device)  # [N], into the batch
        self._seeds = np.array([one.seed for one in params], np.uint64)
        self._temperature = torch.tensor([[one.temperature] for one in params], device=device)
        self._top_k = torch.tensor([[one.top_k] for one in params], device=device)
        self._top_p = torch.tensor([[one.top_p] for one in params], device=device)
        self._log_min_p = torch.tensor(
            [[math.log(one.min_p) if one.min_p else -math.inf] for one in params], device=device
        )
        self._use_min_p = any(one.min_p for one in params)
        ranks = [one.top_k or len(vocab) for one in params if one.top_k or one.top_p < 1]
        self._num_ranks = min(max(ranks, default=0), len(vocab))
        """So many of a row's largest logits must be put in order for top_k and top_p; 0: neither is used."""

    def shape(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores whose largest is the drawn token. logits: [N, V]; the result is new."""
        likely = self._keep_likely(logits / self._temperature)
        indices = np.array([one.num_drawn for one in self.sequences], np.uint64)
        keys = torch.from_numpy(row_keys(self._seeds, indices)).to(self._vocab.device, non_blocking=True)
        return likely - log_exponential(keys, self._vocab)

    def _keep_likely(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask all below one threshold a row, so that ties at it stay and no order among them matters."""
        if not (self._num_ranks or self._use_min_p):
            return logits
        threshold = self._log_min_p + logits.amax(dim=-1, keepdim=True)
        if self._num_ranks:
            ranked = logits.topk(self._num_ranks, dim=-1).values  # [N, num_ranks], descending
            last = ranked.gather(1, self._top_k.clamp(1, self._num_ranks) - 1)
            in_top_k = last.where(self._top_k > 0, -math.inf)
            probs = ranked.masked_fill(ranked < in_top_k, -math.inf).softmax(dim=-1)
            num_kept = ((probs.cumsum(dim=-1) - probs) < self._top_p).sum(dim=-1, keepdim=True)
            last = ranked.gather(1, num_kept.clamp(min=1) - 1)
            in_top_p = last.where(self._top_p < 1, -math.inf)
            threshold = threshold.maximum(in_top_k).maximum(in_top_p)
        return logits.masked_fill(logits < threshold, -math.inf)
