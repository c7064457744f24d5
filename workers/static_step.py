"""Attention of a batch of decodes whose input lies at fixed places on the device: what a CUDA graph can record.

Nothing here depends on how long a sequence is: positions and tables are read on the device. Must not know how graphs
are recorded (graphs.py) nor who fills the input (stage.py).
"""

from typing import Protocol

import torch

from tokenyard.workers.attention import Flavour, attend_dense
from tokenyard.workers.kv import KVPool


class DecodeKernel(Protocol):
    """Attends from one query a row to that row's tokens in the pool; see triton_decode.decode."""

    def __call__(
        self,
        query: torch.Tensor,
        key_pool: torch.Tensor,
        value_pool: torch.Tensor,
        block_table: torch.Tensor,
        lengths: torch.Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
        out: torch.Tensor,
        *,
        block_size: int,
    ) -> None: ...


class StaticStep:
    """One decode of each of B sequences."""

    def __init__(self, pool: KVPool, table: torch.Tensor, positions: torch.Tensor, decode: DecodeKernel) -> None:
        """table: [B, W] int32; positions: [B] int64."""
        size = pool.block_size
        self._pool = pool
        self._table = table
        self._lengths = (positions + 1).int()
        self._slots = table.gather(1, (positions // size).unsqueeze(1)).squeeze(1).long() * size + positions % size
        self._decode = decode

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour
    ) -> torch.Tensor:
        """One layer. query: [1, H, B, D]; key, value: [1, H_kv, B, D or D_v]; result: [1, B, H, D_v]."""
        self._pool.write(layer, self._slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        queries = query[0].transpose(0, 1)  # [B, H, D]
        out = query.new_empty(queries.shape[0], queries.shape[1], value.shape[3])
        self._decode(
            queries,
            *self._pool.layer(layer),
            self._table,
            self._lengths,
            flavour.scaling,
            flavour.window,
            flavour.softcap,
            flavour.sinks,
            out,
            block_size=self._pool.block_size,
        )
        return out.unsqueeze(0)


def gathered_decode(
    query: torch.Tensor,
    key_pool: torch.Tensor,
    value_pool: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    out: torch.Tensor,
    *,
    block_size: int,
) -> None:
    """A DecodeKernel of torch alone, for where nothing can compile one: copies all blocks of the table together."""
    num_rows, num_heads, _ = query.shape
    num_kv_heads = key_pool.shape[1]
    keys, values = (_gathered(pool, block_table, block_size) for pool in (key_pool, value_pool))
    others = torch.arange(keys.shape[2], device=query.device)
    hidden = others >= lengths.unsqueeze(1)
    if window:
        hidden |= others < lengths.unsqueeze(1) - window
    mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device).masked_fill_(hidden, -torch.inf)
    queries = query.reshape(num_rows, num_kv_heads, -1, query.shape[2])  # heads of one kv head as its queries
    flavour = Flavour(scaling, window, softcap, None if sinks is None else sinks.view(1, num_kv_heads, -1, 1))
    attended = attend_dense(queries, keys, values, mask[:, None, None], flavour)
    out.copy_(attended.reshape(num_rows, num_heads, -1))


def _gathered(pool: torch.Tensor, block_table: torch.Tensor, block_size: int) -> torch.Tensor:
    """All slots of whole blocks, [B, H_kv, W * block_size, D]."""
    _, num_heads, dim = pool.shape
    blocks = pool.view(-1, block_size * num_heads * dim).index_select(0, block_table.flatten())
    return blocks.view(len(block_table), -1, num_heads, dim).transpose(1, 2)
