"""One engine step for kernels that read block tables: from a plan to tensors, in one copy to the device.

Decodes come first, one token each, then prefill chunks one after another. Decodes and what flash attention does not
know go to Triton's kernels, all other prefill to flash attention. Must not decide what runs (scheduler.py). Imports
triton: import it only where kernels can run.
"""

from array import array
from collections.abc import Iterable

import numpy as np
import torch

from tokenyard.workers import varlen
from tokenyard.workers.attention import Flavour
from tokenyard.workers.batch import Batch
from tokenyard.workers.chunks import Chunks
from tokenyard.workers.kv import KVPool
from tokenyard.workers.scheduler import Plan
from tokenyard.workers.triton_decode import decode
from tokenyard.workers.triton_prefill import prefill


class PackedStep:
    """All that attention must know of one step of B decodes and some chunks; either may be missing."""

    def __init__(
        self, pool: KVPool, slots: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, chunks: Chunks | None
    ) -> None:
        """slots: [T] int64, where each token's key and value go; of the decodes, table: [B, N], lengths: [B], int32."""
        self._pool = pool
        self._slots = slots
        self._table = table
        self._lengths = lengths
        self._chunks = chunks

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, flavour: Flavour
    ) -> torch.Tensor:
        """One layer. query: [1, H, T, D]; key, value: [1, H_kv, T, D or D_v]; result: [1, T, H, D_v]."""
        queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, ...]
        self._pool.write(layer, self._slots, keys, values)
        pools = self._pool.layer(layer)
        out = query.new_empty(queries.shape[0], queries.shape[1], values.shape[2])
        num_decodes = len(self._lengths)
        if num_decodes:
            own = slice(num_decodes)
            scaling, window, softcap, sinks = flavour
            decode(
                queries[own],
                *pools,
                self._table,
                self._lengths,
                scaling,
                window,
                softcap,
                sinks,
                out[own],
                block_size=self._pool.block_size,
            )
        if self._chunks is not None:
            own = slice(num_decodes, None)
            if varlen.fits(queries, values, flavour):
                packed = varlen.packed_keys(keys[own], values[own], *pools, self._chunks)
                out[own] = varlen.prefill(queries[own], *packed, self._chunks, flavour)
            else:
                prefill(queries[own], *pools, self._chunks, flavour, out[own])
        return out.unsqueeze(0)


def pack(plan: Plan, pool: KVPool, device: torch.device) -> Batch:
    """Lay out a plan: decodes first, then prefill chunks, each in the plan's order."""
    size = pool.block_size
    sampled = plan.decodes.copy()
    ids = [one.ids[-1] for one in sampled]
    positions = [one.num_computed for one in sampled]
    slots = [one.blocks[at // size] * size + at % size for one, at in zip(sampled, positions, strict=True)]
    lengths = [at + 1 for at in positions]
    table = _table(one.blocks for one in sampled)
    rows = list(range(len(sampled)))
    starts = [0]
    for sequence, start, end in plan.prefills:
        ids.extend(sequence.ids[start:end])
        positions.extend(range(start, end))
        slots.extend(sequence.blocks[at // size] * size + at % size for at in range(start, end))
        starts.append(starts[-1] + end - start)
        if end == len(sequence.ids):
            rows.append(len(ids) - 1)
            sampled.append(sequence)
    ends = [end for _, _, end in plan.prefills]
    chunk_table = _table(sequence.blocks[: -(-end // size)] for sequence, _, end in plan.prefills)

    lists = [np.array(one, np.int32) for one in (ids, positions, slots, rows, lengths, starts, ends)]
    *indices, on_lengths, on_starts, on_ends, on_table, on_chunk_table = _send([*lists, table, chunk_table], device)
    input_ids, position_ids, all_slots, logit_rows = (one.long() for one in indices)  # torch indexes with these
    sizes = [(end - start, end) for _, start, end in plan.prefills]
    chunks = Chunks(sizes, size, on_chunk_table, on_starts, on_ends) if sizes else None
    step = PackedStep(pool, all_slots, on_table, on_lengths, chunks)
    return Batch(input_ids.unsqueeze(0), position_ids.unsqueeze(0), logit_rows, step, sampled, plan.decodes)


def _table(rows: "Iterable[array[int]]") -> np.ndarray:
    """Block tables as one, padded with what no kernel reads."""
    listed = list(rows)
    table = np.zeros((len(listed), max(map(len, listed), default=0)), np.int32)
    for row, blocks in zip(table, listed, strict=True):
        row[: len(blocks)] = blocks
    return table


def _send(parts: list[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Arrays of int32 on the device, in one copy."""
    sizes = [part.size for part in parts]
    packed = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    np.concatenate([part.ravel() for part in parts], out=packed.numpy())
    on_device = packed.to(device, non_blocking=True)
    return [flat.view(part.shape) for flat, part in zip(torch.split(on_device, sizes), parts, strict=True)]
