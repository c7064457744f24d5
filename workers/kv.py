"""The tensors behind the block pool: one paged pool of keys and values for each layer.

Must not know which sequence owns a block (blocks.py) nor how attention reads it (attention.py).
"""

import math
import mmap
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch


class LayerShape(NamedTuple):
    """What one layer keeps of one token; found by running the model once (attention.Probe)."""

    num_heads: int
    key_dim: int
    value_dim: int
    group: int = 1
    """Query heads that share each of its heads."""

    @property
    def num_elements(self) -> int:
        return self.num_heads * (self.key_dim + self.value_dim)


class Table(NamedTuple):
    """Block tables of one or several sequences, padded to one width."""

    blocks: torch.Tensor  # [B, N]
    first: int | None
    """The first block of a single sequence whose blocks are neighbours: it can be read without a copy."""


NUM_TRIAL_BLOCKS = 4
"""A sequence over the border of two blocks, without an adapter and with one (graph_lane.py)."""

Write = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""key, value: [T, num_heads, dim]; the layer's pools of both: [num_slots, num_heads, dim]; slots: [T] int64."""


def copy_in(
    key: torch.Tensor, value: torch.Tensor, key_pool: torch.Tensor, value_pool: torch.Tensor, slots: torch.Tensor
) -> None:
    """A Write of torch alone."""
    key_pool.index_copy_(0, slots, key)
    value_pool.index_copy_(0, slots, value)


class KVPool:
    """Keys and values of `num_blocks * block_size` slots. Slot s lies in block s // block_size.

    Some blocks more: `null_block` is never written, so that what pads a block table reads finite numbers there;
    `spill_block` takes what the padding rows of a CUDA graph write; `trial_blocks` are for those who try graphs.
    """

    def __init__(
        self,
        shapes: list[LayerShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        write: Write = copy_in,
    ) -> None:
        self.block_size = block_size
        self.null_block = num_blocks
        self.spill_block = num_blocks + 1
        self.trial_blocks = range(num_blocks + 2, num_blocks + 2 + NUM_TRIAL_BLOCKS)
        self.token_bytes = max(shape.num_elements for shape in shapes) * dtype.itemsize
        """Of one token in the largest layer."""
        self._write = write
        num_slots = self.trial_blocks.stop * block_size
        # [num_slots, num_heads, dim], so that a block is one run of memory and a token one row
        self._keys = [_zeros((num_slots, one.num_heads, one.key_dim), dtype, device) for one in shapes]
        self._values = [_zeros((num_slots, one.num_heads, one.value_dim), dtype, device) for one in shapes]

    def write(self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put each token's key and value in its slot. slots: [T]; key, value: [T, num_heads, dim]."""
        self._write(key, value, self._keys[layer], self._values[layer], slots)

    def read(self, layer: int, table: Table) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of whole blocks, each [B, num_heads, N * block_size, dim]."""
        return self._read(self._keys[layer], table), self._read(self._values[layer], table)

    @property
    def num_layers(self) -> int:
        return len(self._keys)

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all slots, [num_slots, num_heads, dim], to be read by kernels that take block tables."""
        return self._keys[layer], self._values[layer]

    def scrub(self, blocks: Iterable[int]) -> None:
        """Zero blocks that may hold NaN: a later holder's masked slots would carry it on, as 0 * NaN is NaN."""
        for layer in (*self._keys, *self._values):
            paged = layer.view(-1, self.block_size, *layer.shape[1:])
            for block in blocks:
                paged[block] = 0

    def _read(self, pool: torch.Tensor, table: Table) -> torch.Tensor:
        num_rows, num_blocks = table.blocks.shape
        _, num_heads, dim = pool.shape
        if table.first is not None:
            start = table.first * self.block_size
            return pool[start : start + num_blocks * self.block_size].transpose(0, 1).unsqueeze(0)
        paged = pool.view(-1, self.block_size * num_heads * dim)
        gathered = paged.index_select(0, table.blocks.flatten())
        return gathered.view(num_rows, num_blocks * self.block_size, num_heads, dim).transpose(1, 2)


def _zeros(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros that on CPU take memory only where they are written: fresh pages, which torch.zeros would fill.

    Small pages, as a huge one is cleared whole at its first token: with all layers at once, 85 ms of one step.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux only
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
