"""From a plan to tensors: packs the tokens of one step and all that attention needs to know, in one copy to the device.

Must not decide what runs (scheduler.py) nor how it is computed (attention.py).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from tokenyard.workers.attention import Decodes, Span, Step
from tokenyard.workers.kv import KVPool, Table
from tokenyard.workers.scheduler import Chunk, Plan, Sequence

GROUP_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}
"""Keys and values that one group of decodes may gather in one layer. CPU: what stays in a core's L2 cache; at 32
streams of 512 tokens one gather of all took 8.2 ms a layer, one by one 2.1 ms. CUDA: large, but bounded."""


class Batch(NamedTuple):
    """One step's input. T tokens in all, of which R end a sequence and are sampled after."""

    input_ids: torch.Tensor  # [1, T]
    position_ids: torch.Tensor  # [1, T]
    logit_rows: torch.Tensor  # [R], into T
    step: Step
    sampled: list[Sequence]
    """R sequences, in the order of logit_rows."""


def pack(plan: Plan, pool: KVPool, device: torch.device) -> Batch:
    """Lay out a plan: decodes first, from short to long, then prefill chunks one after another."""
    decodes = sorted(plan.decodes, key=_num_blocks)
    groups = list(_groups(decodes, GROUP_BYTES[device.type] // (pool.token_bytes * pool.block_size)))
    tables = [_table(decodes[start:end], pool.null_block) for start, end in groups]
    tables += [_chunk_table(chunk, pool.block_size) for chunk in plan.prefills]
    ids, positions, slots = _tokens(decodes, plan.prefills, pool.block_size)
    ends = np.cumsum([end - start for _, start, end in plan.prefills], dtype=np.int64) + len(decodes)
    finished = [end == len(sequence.ids) for sequence, _, end in plan.prefills]
    rows = np.concatenate([np.arange(len(decodes)), ends[finished] - 1])
    parts = [ids, positions, slots, rows, *(table.ravel() for table in tables)]
    packed = torch.from_numpy(np.concatenate(parts)).to(device, non_blocking=True)
    on_device = torch.split(packed, [len(part) for part in parts])
    placed = [Table(part.view(table.shape), _first(table)) for part, table in zip(on_device[4:], tables, strict=True)]
    step = Step(
        pool,
        on_device[2],
        [
            Decodes(start, end, table, on_device[1][start:end], len(decodes[end - 1].ids))
            for (start, end), table in zip(groups, placed, strict=False)
        ],
        [
            Span(int(stop) - end + start, int(stop), start, table)
            for (_, start, end), stop, table in zip(plan.prefills, ends, placed[len(groups) :], strict=True)
        ],
    )
    sampled = decodes + [chunk.sequence for chunk, last in zip(plan.prefills, finished, strict=True) if last]
    return Batch(on_device[0].unsqueeze(0), on_device[1].unsqueeze(0), on_device[3], step, sampled)


def _num_blocks(sequence: Sequence) -> int:
    return len(sequence.blocks)


def _groups(decodes: list[Sequence], limit: int) -> Iterator[tuple[int, int]]:
    """Ranges [start, end) of decodes, sorted by length, whose padded tables hold at most `limit` blocks."""
    start = 0
    for row, sequence in enumerate(decodes):
        if row > start and (row + 1 - start) * len(sequence.blocks) > limit:
            yield start, row
            start = row
    if decodes:
        yield start, len(decodes)


def _table(sequences: list[Sequence], null_block: int) -> np.ndarray:
    """Block tables, padded to the last and longest: [B, N]."""
    table = np.full((len(sequences), len(sequences[-1].blocks)), null_block, np.int64)
    for row, sequence in enumerate(sequences):
        table[row, : len(sequence.blocks)] = sequence.blocks
    return table


def _chunk_table(chunk: Chunk, block_size: int) -> np.ndarray:
    """The blocks up to the chunk's end: [1, N]."""
    return np.array(chunk.sequence.blocks[: -(-chunk.end // block_size)], np.int64).reshape(1, -1)


def _first(table: np.ndarray) -> int | None:
    """The first block where one sequence's blocks are neighbours in order."""
    if len(table) > 1 or (table[0, 1:] - table[0, :-1] != 1).any():
        return None
    return int(table[0, 0])


def _tokens(decodes: list[Sequence], prefills: list[Chunk], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, positions and slots of all packed tokens, each int64 [T]."""
    places = [one.num_computed for one in decodes]
    ids = [np.array([one.ids[-1] for one in decodes], np.int64)]
    positions = [np.array(places, np.int64)]
    slots = [
        np.array([one.blocks[at // size] * size + at % size for one, at in zip(decodes, places, strict=True)], np.int64)
    ]
    for sequence, start, end in prefills:
        ids.append(np.array(sequence.ids[start:end], np.int64))
        positions.append(np.arange(start, end))
        slots.append(np.array(sequence.blocks, np.int64)[positions[-1] // size] * size + positions[-1] % size)
    return np.concatenate(ids), np.concatenate(positions), np.concatenate(slots)
