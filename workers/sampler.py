"""From logits to tokens: every sequence with its own parameters, all of them at once on the device.

Order of processing (docs/architecture.md, "Sampling"):
  1. logprobs are taken from the raw logits
  2. repetition penalty, frequency and presence penalty, logit_bias; stop tokens are masked below min_tokens
  3. temperature, then top_k, top_p of what top_k left, min_p; ties at a threshold all stay
  4. the largest of logits plus noise wins; at temperature 0, of the logits of step 2

A row's result depends on its own logits and parameters only. One transfer from the device per step, one more where
logprobs are asked for. Must not know of blocks, steps or sockets.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from tokenyard.broker.params import Params
from tokenyard.workers.noise import log_exponential, row_keys, vocab_words
from tokenyard.workers.penalties import TokenCounts
from tokenyard.workers.scheduler import Sequence

GREEDY_BELOW = 1e-5
"""Temperatures below are greedy: logits divided by them would overflow float32 (vLLM's bound too)."""
BROKEN = -1
"""Stands for a token where a row's logits held NaN or nothing finite."""


class Logprobs(NamedTuple):
    """Of one emitted token, from unprocessed logits."""

    chosen: float
    top_ids: list[int]
    """Likeliest first."""
    top_values: list[float]


class Sampled(NamedTuple):
    """What one step drew for one sequence."""

    token: int
    """BROKEN if the row's logits were."""
    logprobs: Logprobs | None


def is_greedy(params: Params) -> bool:
    return params.temperature < GREEDY_BELOW


def has_penalties(params: Params) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


class _Rows:
    """A batch's parameters as tensors, kept while the batch stays the same; None where no row needs them."""

    def __init__(self, sequences: list[Sequence], device: torch.device) -> None:
        self.sequences = sequences
        params = [one.params for one in sequences]

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)

        def rows(chosen: list[int]) -> torch.Tensor:
            return torch.tensor(chosen, dtype=torch.int64, device=device)

        noisy = [row for row, one in enumerate(params) if not is_greedy(one)]
        self.noisy = rows(noisy) if noisy else None
        self.seeds = np.array([params[row].seed for row in noisy], np.uint64)
        self.temperature = column([params[row].temperature for row in noisy])
        self.max_top_k = 0
        """Highest rank that can matter to top_k or top_p; 0: neither is in use, -1: all ranks."""
        filtered = [row for row, one in enumerate(params) if row in noisy and (one.top_k > 0 or one.top_p < 1.0)]
        if filtered:
            top_ks = [params[row].top_k for row in filtered]
            self.max_top_k = -1 if 0 in top_ks else max(top_ks)
        self.top_k = rows([params[row].top_k for row in noisy]).unsqueeze(1)
        self.top_p = column([params[row].top_p for row in noisy])
        self.log_min_p = None
        if any(params[row].min_p > 0 for row in noisy):
            self.log_min_p = column(
                [math.log(params[row].min_p) if params[row].min_p > 0 else -math.inf for row in noisy]
            )
        penalised = [row for row, one in enumerate(params) if has_penalties(one)]
        self.penalised = rows(penalised) if penalised else None
        self.penalised_sequences = [sequences[row] for row in penalised]
        self.repetition = column([params[row].repetition_penalty for row in penalised])
        self.presence = column([params[row].presence_penalty for row in penalised])
        self.frequency = column([params[row].frequency_penalty for row in penalised])
        self.has_biases = any(one.logit_bias or one.min_tokens for one in params)
        self.logprob_rows = [row for row, one in enumerate(params) if one.logprobs >= 0]
        self.logprob_index = rows(self.logprob_rows)
        self.max_logprobs = max((one.logprobs for one in params), default=-1)


class Sampler:
    """Draws the next tokens. Holds token counts of penalised sequences until forget()."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._vocab = vocab_words(vocab_size, device)
        self._counts = TokenCounts(vocab_size, device)
        self._rows = _Rows([], device)

    def forget(self, sequence: Sequence) -> None:
        """Free what is kept for a sequence."""
        self._counts.forget(sequence)
        if sequence in self._rows.sequences:
            self._rows = _Rows([], self.device)

    def sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[Sampled]:
        """The next token of each sequence. logits: [R, V], raw, of any float type."""
        if sequences != self._rows.sequences:
            self._rows = _Rows(sequences, self.device)
        rows = self._rows
        raw = logits.float()
        scores = self._shape(raw, rows)
        best, tokens = scores.max(dim=-1)
        tokens = torch.where(best.isfinite(), tokens, BROKEN)
        logprobs = self._logprobs(raw, tokens, rows) if rows.logprob_rows else {}
        if rows.penalised is not None:
            self._counts.count(rows.penalised_sequences, tokens[rows.penalised])
        return [Sampled(token, logprobs.get(row)) for row, token in enumerate(tokens.tolist())]

    def _shape(self, raw: torch.Tensor, rows: _Rows) -> torch.Tensor:
        """Steps 2 to 4 of the order above; the row's maximum is its token. Does not write to `raw`."""
        if rows.penalised is None and not rows.has_biases and rows.noisy is None:
            return raw
        logits = raw.clone()
        if rows.penalised is not None:
            seen, counts = self._counts.of(rows.penalised_sequences)
            part = logits[rows.penalised]
            repeated = torch.where(part > 0, part / rows.repetition, part * rows.repetition)
            part = torch.where(seen, repeated, part)
            part -= rows.frequency * counts + rows.presence * (counts > 0)
            logits[rows.penalised] = part
        if rows.has_biases:
            self._add_biases(logits, rows.sequences)
        if rows.noisy is not None:
            part = self._keep_likely(logits[rows.noisy] / rows.temperature, rows)
            logits[rows.noisy] = part - self._noise(rows)
        return logits

    def _add_biases(self, logits: torch.Tensor, sequences: list[Sequence]) -> None:
        """logit_bias, and minus infinity for stop tokens below min_tokens."""
        at: list[int] = []
        ids: list[int] = []
        values: list[float] = []
        for row, sequence in enumerate(sequences):
            params = sequence.params
            ids += params.logit_bias.keys()
            values += params.logit_bias.values()
            if sequence.num_emitted < params.min_tokens:
                ids += params.stop_token_ids
                values += [-math.inf] * len(params.stop_token_ids)
            at += [row] * (len(ids) - len(at))
        if ids:
            places = torch.tensor([at, ids], dtype=torch.int64, device=self.device)
            biases = torch.tensor(values, dtype=torch.float32, device=self.device)
            logits.index_put_((places[0], places[1]), biases, accumulate=True)

    def _keep_likely(self, logits: torch.Tensor, rows: _Rows) -> torch.Tensor:
        """Mask what top_k, top_p and min_p leave out: all below one threshold a row. logits: [noisy, V]."""
        if rows.log_min_p is None and not rows.max_top_k:
            return logits
        threshold = torch.full_like(rows.temperature, -math.inf)
        if rows.max_top_k:
            rank = self.vocab_size if rows.max_top_k < 0 else min(rows.max_top_k, self.vocab_size)
            ranked = logits.topk(rank, dim=-1).values  # [noisy, rank], descending
            last = ranked.gather(1, rows.top_k.clamp(min=1, max=rank) - 1)
            threshold = last.where(rows.top_k > 0, threshold)
            probs = ranked.masked_fill(ranked < threshold, -math.inf).softmax(dim=-1)
            num_kept = ((probs.cumsum(dim=-1) - probs) < rows.top_p).sum(dim=-1, keepdim=True)
            last = ranked.gather(1, num_kept.clamp(min=1) - 1)
            threshold = torch.maximum(threshold, last.where(rows.top_p < 1, threshold))
        if rows.log_min_p is not None:
            threshold = torch.maximum(threshold, logits.max(dim=-1, keepdim=True).values + rows.log_min_p)
        return logits.masked_fill(logits < threshold, -math.inf)

    def _noise(self, rows: _Rows) -> torch.Tensor:
        indices = [one.num_emitted for one in rows.sequences if not is_greedy(one.params)]
        keys = row_keys(rows.seeds, np.array(indices, np.uint64))
        return log_exponential(torch.from_numpy(keys).to(self.device, non_blocking=True), self._vocab)

    def _logprobs(self, raw: torch.Tensor, tokens: torch.Tensor, rows: _Rows) -> dict[int, Logprobs]:
        """Step 1, by row."""
        logprobs = raw[rows.logprob_index].log_softmax(dim=-1)
        chosen = logprobs.gather(1, tokens[rows.logprob_index].clamp(min=0).unsqueeze(1))
        top = logprobs.topk(min(rows.max_logprobs, self.vocab_size), dim=-1)
        values = torch.cat([chosen, top.values], dim=1).tolist()
        ids = top.indices.tolist()
        found = {}
        for place, row in enumerate(rows.logprob_rows):
            count = rows.sequences[row].params.logprobs
            found[row] = Logprobs(values[place][0], ids[place][:count], values[place][1 : count + 1])
        return found
