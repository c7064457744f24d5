"""What prefill kernels must know of a step's chunks: where queries and keys begin and end."""

from functools import cached_property

import torch


class Chunks:
    """The prefill chunks of S sequences, whose T queries are packed one sequence after another."""

    def __init__(
        self,
        sizes: list[tuple[int, int]],
        block_size: int,
        table: torch.Tensor,
        starts: torch.Tensor,
        lengths: torch.Tensor,
    ) -> None:
        self.block_size = block_size
        self.table = table  # [S, N] int32
        self.starts = starts  # [S + 1] int32: where each one's queries begin, and T
        self.lengths = lengths  # [S] int32: of each sequence, up to its last query
        self.max_queries = max(num_queries for num_queries, _ in sizes)
        self.max_length = max(length for _, length in sizes)
        self.num_keys = sum(length for _, length in sizes)
        """K, of all sequences."""
        self.are_whole = all(num_queries == length for num_queries, length in sizes)
        """Whether no chunk follows earlier tokens of its sequence."""

    @cached_property
    def key_starts(self) -> torch.Tensor:
        """[S + 1] int32: where each sequence's tokens begin if all are packed one sequence after another, and K."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0, dtype=torch.int32)])

    @cached_property
    def key_slots(self) -> torch.Tensor:
        """[K] int64: the slots of all sequences' tokens, packed; made once for all layers."""
        at = torch.arange(self.num_keys, device=self.table.device, dtype=torch.int32)
        sequence = torch.searchsorted(self.key_starts, at, right=True) - 1
        position = at - self.key_starts[sequence]
        blocks = self.table[sequence, position // self.block_size].long()
        return blocks * self.block_size + position % self.block_size
