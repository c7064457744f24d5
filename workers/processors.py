"""Rules about single tokens, laid over the scores of a whole batch: a few sparse writes a step.

What the rules of one sequence are is token_rules.py's matter. A batch whose sequences have none needs nothing of this.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.stage import to_device
from tokenyard.workers.token_rules import Ids, TokenRules

FAR = 1e30
"""In place of infinity: far beyond every logit, and finite after division by the lowest temperature."""

Found = tuple[int, Ids | list[int], list[float]]
"""A row of the batch, token ids, and a value for each of them, or a single one for all."""


class Entries(NamedTuple):
    """E places in scores [R, V], each with a value."""

    rows: torch.Tensor  # int64 [E]
    ids: torch.Tensor  # int64 [E]
    values: torch.Tensor  # float32 [E]

    def add_to(self, scores: torch.Tensor) -> None:
        scores.index_put_((self.rows, self.ids), self.values, accumulate=True)

    def write_to(self, scores: torch.Tensor) -> None:
        scores.index_put_((self.rows, self.ids), self.values)

    def grow(self, scores: torch.Tensor) -> None:
        """Raise each finite score by `values` times its size."""
        old = scores[self.rows, self.ids]
        self._replace(values=torch.where(old.isfinite(), old.abs() * self.values, 0.0)).add_to(scores)


class TokenProcessor:
    """The rules of one batch; made for it once and kept while it stays the same."""

    def __init__(self, sequences: list[Sequence], known: dict[Sequence, TokenRules], vocab: torch.Tensor) -> None:
        """`known`: rules that were worked out before; new ones are added. vocab: [V]."""
        self._device = vocab.device
        ruled = [row for row, one in enumerate(sequences) if one.params.processors]
        for row in ruled:
            if sequences[row] not in known:
                known[sequences[row]] = TokenRules(sequences[row].params)
        rules = [(row, sequences[row], known[sequences[row]]) for row in ruled]
        self._changing = [entry for entry in rules if entry[2].changes]
        self._changing_biases = [entry for entry in rules if entry[2].bias_endings]
        self._biases = self._entries([_parted(row, one.biases) for row, _, one in rules])
        self._banned = self._entries([(row, one.banned, [-math.inf]) for row, _, one in rules])
        self._replaced = self._indices([row for row, _, one in rules if one.replaces_invalid])
        limited = [(row, one.allowed) for row, _, one in rules if len(one.allowed)]
        self._limited = self._indices([row for row, _ in limited])
        self._forbidden = torch.ones(len(limited), len(vocab), dtype=torch.bool, device=self._device)
        """In the rows `_limited`: [L, V]."""
        for place, (_, allowed) in enumerate(limited):
            self._forbidden[place, self._indices(allowed)] = False

    def begin(self, scores: torch.Tensor) -> None:
        """What comes before penalties: sequence_bias."""
        if self._biases is not None:
            self._biases.add_to(scores)
        found = [_parted(row, one.bias_endings.after(sequence.ids)) for row, sequence, one in self._changing_biases]
        if (entries := self._entries(found)) is not None:
            entries.add_to(scores)

    def end(self, scores: torch.Tensor) -> None:
        """What comes after them, in this order: the length penalty, invalid values, bans, forced tokens."""
        now = [(row, one, one.next(sequence)) for row, sequence, one in self._changing]
        gains = self._entries([(row, one.stop_ids, [after.gain]) for row, one, after in now if after.gain])
        if gains is not None:
            gains.grow(scores)
        if len(self._replaced):
            scores[self._replaced] = scores[self._replaced].nan_to_num(nan=0.0, posinf=FAR, neginf=-FAR)
        if len(self._limited):
            scores[self._limited] = scores[self._limited].masked_fill(self._forbidden, -torch.inf)
        banned = self._entries([(row, after.banned, [-math.inf]) for row, _, after in now])
        for entries in (self._banned, banned):
            if entries is not None:
                entries.write_to(scores)
        self._force(scores, [(row, after.forced, [0.0]) for row, _, after in now if after.forced is not None])

    def _force(self, scores: torch.Tensor, found: list[Found]) -> None:
        if found:
            scores[self._indices([row for row, _, _ in found])] = -torch.inf
            if (entries := self._entries(found)) is not None:
                entries.write_to(scores)

    def _indices(self, rows: list[int] | Ids) -> torch.Tensor:
        return to_device(rows, torch.int64, self._device)

    def _entries(self, found: list[Found]) -> Entries | None:
        """On the device, without waiting for it; None where there are none."""
        sizes = [len(ids) for _, ids, _ in found]
        if not any(sizes):
            return None
        rows = np.repeat(np.array([row for row, _, _ in found], np.int64), sizes)
        ids = np.concatenate([np.asarray(ids, np.int64) for _, ids, _ in found])
        values = np.concatenate([np.broadcast_to(np.array(values, np.float32), len(ids)) for _, ids, values in found])
        return Entries(self._indices(rows), self._indices(ids), to_device(values, torch.float32, self._device))


def _parted(row: int, pairs: list[tuple[int, float]]) -> Found:
    return row, [token for token, _ in pairs], [value for _, value in pairs]
