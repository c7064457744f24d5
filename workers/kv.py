"""The tensors behind the block pool: one paged pool of keys and values for each layer.

Must not know which sequence owns a block (blocks.py) nor how attention reads it (attention.py).
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch


class LayerShape(NamedTuple):
    """What one layer keeps of one token; found by running the model once (attention.Probe)."""

    num_heads: int
    key_dim: int
    value_dim: int

    @property
    def num_elements(self) -> int:
        return self.num_heads * (self.key_dim + self.value_dim)


class KVPool:
    """Keys and values of `num_blocks * block_size` slots. Slot s lies in block s // block_size.

    One block more, `null_block`, is never written: what pads a block table reads finite numbers there.
    """

    def __init__(
        self, shapes: list[LayerShape], num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.block_size = block_size
        self.null_block = num_blocks
        num_slots = (num_blocks + 1) * block_size
        # [num_slots, num_heads, dim], so that a block is one run of memory and a token one row
        self.keys = [
            torch.zeros(num_slots, shape.num_heads, shape.key_dim, dtype=dtype, device=device) for shape in shapes
        ]
        self.values = [
            torch.zeros(num_slots, shape.num_heads, shape.value_dim, dtype=dtype, device=device) for shape in shapes
        ]

    def write(self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put each token's key and value in its slot. slots: [T]; key, value: [T, num_heads, dim]."""
        self.keys[layer].index_copy_(0, slots, key)
        self.values[layer].index_copy_(0, slots, value)

    def read(self, layer: int, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of whole blocks. tables: [B, N]; both results: [B, num_heads, N * block_size, dim]."""
        return _gather(self.keys[layer], tables, self.block_size), _gather(self.values[layer], tables, self.block_size)

    def scrub(self, blocks: Iterable[int]) -> None:
        """Zero blocks that may hold NaN: a later holder's masked slots would carry it on, as 0 * NaN is NaN."""
        for layer in (*self.keys, *self.values):
            paged = layer.view(-1, self.block_size, *layer.shape[1:])
            for block in blocks:
                paged[block] = 0


def _gather(pool: torch.Tensor, tables: torch.Tensor, block_size: int) -> torch.Tensor:
    num_rows, num_blocks = tables.shape
    rows = pool.view(-1, block_size * pool.shape[1] * pool.shape[2]).index_select(0, tables.flatten())
    return rows.view(num_rows, num_blocks * block_size, pool.shape[1], pool.shape[2]).transpose(1, 2)
