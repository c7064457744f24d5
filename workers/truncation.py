"""Ways to narrow a distribution that few requests ask for: top_h, typical_p, epsilon_cutoff, eta_cutoff.

Each is transformers' processor of the same meaning (generation/logits_process.py), over rows with their own parameters.
Must not know of temperature and the common ways, top_k and the like (draws.py).
"""

import torch

from tokenyard.broker.params import Params

TOP_H_RANKS = 100
"""Tokens that top_h looks at (transformers' top_n)."""


def is_truncated(params: Params) -> bool:
    """Whether a row of these parameters is narrowed in any of these ways."""
    asked = params.processors
    return asked is not None and (
        asked.top_h > 0 or asked.typical_p < 1 or asked.epsilon_cutoff > 0 or asked.eta_cutoff > 0
    )


class Truncation:
    """The rows of a batch that are narrowed, M of them, their parameters as columns [M, 1]."""

    def __init__(self, params: list[Params], device: torch.device) -> None:
        """`params`: of all rows that are drawn by chance."""
        chosen = [(row, one.processors) for row, one in enumerate(params) if one.processors and is_truncated(one)]

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, device=device).unsqueeze(1)

        self._rows = torch.tensor([row for row, _ in chosen], dtype=torch.int64, device=device)
        self._top_h = column([one.top_h for _, one in chosen])
        self._typical_p = column([one.typical_p for _, one in chosen])
        self._epsilon = column([one.epsilon_cutoff for _, one in chosen])
        self._eta = column([one.eta_cutoff for _, one in chosen])
        self._uses_top_h = any(one.top_h for _, one in chosen)
        self._uses_typical = any(one.typical_p < 1 for _, one in chosen)
        self._uses_cutoffs = any(one.epsilon_cutoff or one.eta_cutoff for _, one in chosen)

    def first(self, logits: torch.Tensor) -> torch.Tensor:
        """What comes before top_k: top_h. logits: [N, V], after temperature; may be written to."""
        if self._uses_top_h:
            logits[self._rows] = self._keep_entropy(logits[self._rows])
        return logits

    def last(self, logits: torch.Tensor) -> torch.Tensor:
        """What comes after min_p: typical_p, epsilon_cutoff, eta_cutoff. logits: [N, V]; may be written to."""
        chosen = logits[self._rows]
        if self._uses_typical:
            chosen = self._keep_typical(chosen)
        if self._uses_cutoffs:
            chosen = _cut(chosen, self._epsilon)
            # 0, for off, stays 0
            chosen = _cut(chosen, self._eta.minimum(self._eta.sqrt() * (-_entropy(chosen)).exp()))
        logits[self._rows] = chosen
        return logits

    def _keep_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest tokens, as many as hold a share of the entropy."""
        top, ids = logits.topk(min(TOP_H_RANKS, logits.shape[1]), dim=-1)
        logprobs = top.log_softmax(dim=-1)
        entropy = (-logprobs.exp() * logprobs).nan_to_num(nan=0.0)  # of tokens that are masked: 0
        kept = entropy.cumsum(dim=-1) <= entropy.sum(dim=-1, keepdim=True) * self._top_h
        kept &= top > -torch.inf
        kept[:, 0] = True
        mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, kept)
        return logits.masked_fill(~mask & (self._top_h > 0), -torch.inf)

    def _keep_typical(self, logits: torch.Tensor) -> torch.Tensor:
        """The tokens whose information is nearest to the entropy, as many as hold a share of it (arXiv:2202.00666)."""
        logprobs = logits.log_softmax(dim=-1)
        distances, order = ((-logprobs) - _entropy(logits)).abs().sort(dim=-1)
        probs = logprobs.gather(1, order).exp()
        count = (probs.cumsum(dim=-1) < self._typical_p).sum(dim=-1, keepdim=True).clamp(max=logits.shape[1] - 1)
        dropped = distances > distances.gather(1, count)
        dropped[:, 0] = False
        mask = torch.zeros_like(dropped).scatter_(1, order, dropped)
        return logits.masked_fill(mask & (self._typical_p < 1), -torch.inf)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Of each row, [M, 1]; masked tokens add nothing."""
    logprobs = logits.log_softmax(dim=-1)
    return -(logprobs.exp() * logprobs).nansum(dim=-1, keepdim=True)


def _cut(logits: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Mask what is less probable than `least` [M, 1], but for the likeliest tokens."""
    unlikely = (logits.softmax(dim=-1) < least) & (logits < logits.amax(dim=-1, keepdim=True))
    return logits.masked_fill(unlikely, -torch.inf)
