"""How often each sequence has used each token, on the device, for the sequences whose penalties need it.

One row of two tables per sequence, taken at its first draw and given back when it ends, so that a step gathers rows
instead of counting anew. Must not know how penalties are computed (sampler.py).
"""

import torch

from tokenyard.workers.scheduler import Sequence


class TokenCounts:
    """Tables [rows, V]: whether a token occurs in prompt or emitted tokens, and how often in emitted ones."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._seen = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self._emitted = torch.zeros(0, vocab_size, dtype=torch.float32, device=device)
        self._row_of: dict[Sequence, int] = {}
        self._free: list[int] = []

    def of(self, sequences: list[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
        """seen bool [S, V] and emitted float32 [S, V] of these sequences; new ones are counted first."""
        for sequence in sequences:
            if sequence not in self._row_of:
                self._begin(sequence)
        rows = self._rows(sequences)
        return self._seen[rows], self._emitted[rows]

    def count(self, sequences: list[Sequence], tokens: torch.Tensor) -> None:
        """One more emitted token each. tokens: int64 [S], on the device; negative ones (broken rows) count nowhere."""
        rows = self._rows(sequences)
        valid = tokens >= 0
        tokens = tokens.clamp(min=0)
        self._seen[rows, tokens] |= valid
        self._emitted[rows, tokens] += valid

    def forget(self, sequence: Sequence) -> None:
        """Give the sequence's row back."""
        row = self._row_of.pop(sequence, None)
        if row is not None:
            self._free.append(row)

    def _rows(self, sequences: list[Sequence]) -> torch.Tensor:
        return torch.tensor([self._row_of[one] for one in sequences], device=self._seen.device)

    def _begin(self, sequence: Sequence) -> None:
        if not self._free:
            self._grow()
        row = self._row_of[sequence] = self._free.pop()
        device, vocab_size = self._seen.device, self._seen.shape[1]
        ids = torch.tensor(sequence.ids.tolist(), dtype=torch.int64, device=device)
        self._seen[row] = torch.bincount(ids, minlength=vocab_size) > 0
        self._emitted[row] = torch.bincount(ids[sequence.num_prompt :], minlength=vocab_size)

    def _grow(self) -> None:
        """Double the tables."""
        old = len(self._seen)
        new = max(1, old)
        self._seen = torch.cat([self._seen, self._seen.new_zeros(new, self._seen.shape[1])])
        self._emitted = torch.cat([self._emitted, self._emitted.new_zeros(new, self._emitted.shape[1])])
        self._free += range(old, old + new)
