"""The sampler, with the draws that most requests ask for replayed as CUDA graphs.

They have the eager sampler's arithmetic (draws.py), for all rows of a bucket at once, and their parameters in rows of
words on the device. A batch with anything else in it is drawn eagerly: behind a forward that takes longer than the host
needs to launch that.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from tokenyard.workers.biases import has_biases
from tokenyard.workers.drawn import BROKEN, Drawn
from tokenyard.workers.draws import GREEDY_BELOW, Odds, log_min_p, noise_keys, num_ranks
from tokenyard.workers.grammars import Allowed
from tokenyard.workers.graphs import Graph, Recorder, Shape, in_pieces, smallest
from tokenyard.workers.penalties import has_penalties
from tokenyard.workers.sampler import Sampler
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.stage import Pinned

RANKS = (0, 64)
"""Ranked logits in a graph: none, or enough for the top_k of every model's generation_config that is known here (20 to
64). To rank a whole vocabulary is a sort, which is left to the eager sampler."""
KEYS, TOP_K, TEMPERATURE, NUM_WORDS = 0, 2, 3, 6
"""First word of each part of a row; temperature, top_p and log(min_p), from TEMPERATURE on, are float32."""


class GraphSampler(Sampler):
    """Draws from logits that always lie at the same place."""

    def __init__(self, vocab_size: int, device: torch.device, logits: torch.Tensor, buckets: list[int]) -> None:
        """logits: [num_rows, V]; `buckets`: of rows, ascending."""
        super().__init__(vocab_size, device)
        self._logits = logits
        self._buckets = buckets
        self._pinned = Pinned(len(logits), NUM_WORDS, device)
        self._filled_for: list[list[Sequence]] = [[], []]
        """Whose parameters each host buffer holds."""
        self._ranked: list[Sequence] = []
        self._ranks: int | None = None
        """What kind of graph draws the batch `_ranked`."""
        self._tokens = torch.zeros(len(logits), dtype=torch.int64, device=device)
        self._graphs: dict[Shape, Graph] = {}
        """By bucket and ranks."""

    def recording(self, recorder: Recorder) -> Iterator[None]:
        """Record all graphs, the largest first. Between two pieces others may draw."""
        for ranks in reversed(RANKS):
            for bucket in reversed(self._buckets):
                work = partial(self._draw, bucket, min(ranks, self._logits.shape[1]))
                self._graphs[bucket, ranks] = yield from in_pieces(recorder, work)

    @property
    def num_graphs(self) -> int:
        return len(self._graphs)

    def draw(self, logits: torch.Tensor, sequences: list[Sequence], allowed: Allowed | None = None) -> Drawn:
        if sequences != self._ranked:
            self._ranked, self._ranks = list(sequences), self._ranks_of(sequences)
        ranks = self._ranks
        shape = None if ranks is None else smallest(self._graphs, self._buckets, len(sequences), ranks)
        if shape is None or logits.data_ptr() != self._logits.data_ptr():
            return super().draw(logits, sequences, allowed)
        if allowed is not None:
            allowed.mask(logits)  # in place: nobody reads the raw ones after this draw
        self._send(sequences)
        self._graphs[shape].replay()
        return Drawn(self._tokens[: len(sequences)].clone())

    def _ranks_of(self, sequences: list[Sequence]) -> int | None:
        """What kind of graph draws these, if one does."""
        most = 0
        for params in (one.params for one in sequences):
            if has_penalties(params) or has_biases(params) or params.processors or params.logprobs >= 0:
                return None
            most = max(most, num_ranks(params, self._logits.shape[1]))
        return next((ranks for ranks in RANKS if most <= ranks), None)

    def _send(self, sequences: list[Sequence]) -> None:
        words = self._pinned.take()
        count = len(sequences)
        if self._filled_for[self._pinned.turn] != sequences:
            self._filled_for[self._pinned.turn] = list(sequences)
            params = [one.params for one in sequences]
            words[:count, TOP_K] = [one.top_k for one in params]
            floats = [(one.temperature, one.top_p, log_min_p(one)) for one in params]
            words[:count, TEMPERATURE:] = np.array(floats, np.float32).view(np.int32)
        words[:count, KEYS:TOP_K] = noise_keys(sequences)
        self._pinned.send(count)

    def _draw(self, bucket: int, ranks: int) -> None:
        """What a graph records. Rows of padding draw from what was there before."""
        words = self._pinned.words[:bucket]
        floats = words[:, TEMPERATURE:].view(torch.float32)
        temperature, top_p, least = floats[:, 0:1], floats[:, 1:2], floats[:, 2:3]
        raw = self._logits[:bucket].float()
        top_k = words[:, TOP_K : TOP_K + 1]
        odds = Odds(temperature.clamp(min=GREEDY_BELOW), top_k, top_p, least, ranks, uses_min_p=True)
        drawn = odds.shape(raw, words[:, KEYS:TOP_K], self._vocab)
        best, tokens = torch.where(temperature < GREEDY_BELOW, raw, drawn).max(dim=-1)
        self._tokens[:bucket] = torch.where(best.isfinite(), tokens, BROKEN)
