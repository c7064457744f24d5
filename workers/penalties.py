"""Repetition, presence and frequency penalties, and the token counts that they need, on the device.

A sequence with a penalty has one row in two tables from its first draw until it ends, so that a step gathers rows
instead of counting anew.
"""

import torch

from tokenyard.broker.params import Params
from tokenyard.workers.scheduler import Sequence
from tokenyard.workers.stage import to_device


def has_penalties(params: Params) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


class TokenCounts:
    """Tables [table rows, V]: whether a token occurs in prompt or emitted tokens, and how often in emitted ones."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.seen = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self.emitted = torch.zeros(0, vocab_size, dtype=torch.float32, device=device)
        self._row_of: dict[Sequence, int] = {}
        self._free: list[int] = []

    def rows(self, sequences: list[Sequence]) -> torch.Tensor:
        """Table rows of these sequences, int64 [S]; new sequences are counted first."""
        for sequence in sequences:
            if sequence not in self._row_of:
                self._begin(sequence)
        return to_device([self._row_of[one] for one in sequences], torch.int64, self.seen.device)

    def forget(self, sequence: Sequence) -> None:
        """Give the sequence's row back."""
        row = self._row_of.pop(sequence, None)
        if row is not None:
            self._free.append(row)

    def _begin(self, sequence: Sequence) -> None:
        if not self._free:
            self._grow()
        row = self._row_of[sequence] = self._free.pop()
        ids = to_device(sequence.ids.tolist(), torch.int64, self.seen.device)
        emitted = ids[sequence.num_prompt :]
        # bincount would wait for the device
        self.seen[row].zero_().index_fill_(0, ids, True)
        self.emitted[row].zero_().index_add_(0, emitted, torch.ones_like(emitted, dtype=torch.float32))

    def _grow(self) -> None:
        """Double the tables."""
        old = len(self.seen)
        new = max(1, old)
        self.seen = torch.cat([self.seen, self.seen.new_zeros(new, self.seen.shape[1])])
        self.emitted = torch.cat([self.emitted, self.emitted.new_zeros(new, self.emitted.shape[1])])
        self._free += range(old, old + new)


class Penalties:
    """The penalised rows of one batch, P of them, and their parameters as tensors [P, 1]."""

    def __init__(self, sequences: list[Sequence], counts: TokenCounts) -> None:
        device = counts.seen.device
        chosen = [row for row, one in enumerate(sequences) if has_penalties(one.params)]
        params = [sequences[row].params for row in chosen]
        self._counts = counts
        self.rows = to_device(chosen, torch.int64, device)  # [P], into the batch
        self._table_rows = counts.rows([sequences[row] for row in chosen])
        self._repetition = to_device([[one.repetition_penalty] for one in params], torch.float32, device)
        self._presence = to_device([[one.presence_penalty] for one in params], torch.float32, device)
        self._frequency = to_device([[one.frequency_penalty] for one in params], torch.float32, device)

    def shape(self, logits: torch.Tensor) -> torch.Tensor:
        """Penalised logits; the result is new. logits: [P, V]."""
        seen, emitted = self._counts.seen[self._table_rows], self._counts.emitted[self._table_rows]
        repeated = torch.where(logits > 0, logits / self._repetition, logits * self._repetition)
        return torch.where(seen, repeated, logits) - (self._frequency * emitted + self._presence * (emitted > 0))

    def count(self, tokens: torch.Tensor) -> None:
        """One more emitted token a row, int64 [P] on the device; negative ones (broken rows) count nowhere."""
        valid = tokens >= 0
        tokens = tokens.clamp(min=0)
        self._counts.seen[self._table_rows, tokens] |= valid
        self._counts.emitted[self._table_rows, tokens] += valid
