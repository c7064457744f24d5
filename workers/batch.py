"""From a plan to tensors: packs the tokens of one step and all that attention needs to know, in one copy to the device.

Must not decide what runs (scheduler.py) nor how it is computed (attention.py).
"""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from tokenyard.workers.attention import Attends, Decodes, Span, Step
from tokenyard.workers.kv import KVPool, Table
from tokenyard.workers.scheduler import Plan, Sequence
from tokenyard.workers.stage import to_device

GROUP_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}
"""Keys and values that one group of decodes may gather in one layer. CPU: what stays in a core's L2 cache; at 32
streams of 512 tokens one gather of all took 8.2 ms a layer, one by one 2.1 ms. CUDA: large, but bounded."""


class Batch(NamedTuple):
    """One step's input. T tokens in all, of which R end a sequence and are sampled after."""

    input_ids: torch.Tensor  # [1, T]
    position_ids: torch.Tensor  # [1, T]
    logit_rows: torch.Tensor  # [R], into T
    step: Attends
    sampled: list[Sequence]
    """R sequences, in the order of logit_rows."""
    decodes: list[Sequence]
    """In the order in which their tokens are packed, before those of the plan's prefills."""


def pack(plan: Plan, pool: KVPool, device: torch.device) -> Batch:
    """Lay out a plan: decodes first, from short to long, then prefill chunks one after another."""
    size = pool.block_size
    decodes = sorted(plan.decodes, key=_num_blocks)
    ids = array("q", [one.ids[-1] for one in decodes])
    positions = array("q", [one.num_computed for one in decodes])
    slots = array("q", [one.blocks[one.num_computed // size] * size + one.num_computed % size for one in decodes])
    row_of = {one: row for row, one in enumerate(decodes)}
    sampled = (
        plan.decodes.copy()
    )  # in the plan's order, which seldom changes: the sampler keeps what it knows of a batch
    rows = array("q", [row_of[one] for one in sampled])
    ends = []
    for sequence, start, end in plan.prefills:
        ids.extend(sequence.ids[start:end].tolist())
        positions.extend(range(start, end))
        slots.extend(sequence.blocks[at // size] * size + at % size for at in range(start, end))
        ends.append(len(ids))
        if end == len(sequence.ids):
            rows.append(len(ids) - 1)
            sampled.append(sequence)
    groups = list(_groups(decodes, GROUP_BYTES[device.type] // (pool.token_bytes * size)))
    tables = [_padded(decodes[start:end], pool.null_block) for start, end in groups]
    tables += [sequence.blocks[: -(-end // size)] for sequence, _, end in plan.prefills]
    heights = [end - start for start, end in groups] + [1] * len(plan.prefills)

    parts = [ids, positions, slots, rows, *tables]
    packed = to_device(np.frombuffer(_joined(parts), np.int64), torch.int64, device)
    input_ids, position_ids, all_slots, logit_rows, *flat_tables = torch.split(packed, [len(part) for part in parts])
    placed = [_table(*one) for one in zip(tables, flat_tables, heights, strict=True)]
    decode_groups = [
        Decodes(start, end, table, position_ids[start:end], len(decodes[end - 1].ids))
        for (start, end), table in zip(groups, placed, strict=False)
    ]
    spans = [
        Span(stop - (end - start), stop, start, table)
        for (_, start, end), stop, table in zip(plan.prefills, ends, placed[len(groups) :], strict=True)
    ]
    step = Step(pool, all_slots, decode_groups, spans)
    return Batch(input_ids.unsqueeze(0), position_ids.unsqueeze(0), logit_rows, step, sampled, decodes)


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


def _padded(sequences: list[Sequence], null_block: int) -> "array[int]":
    """Block tables one after another, each padded to the last and longest."""
    width = len(sequences[-1].blocks)
    table = array("q")
    for sequence in sequences:
        table += sequence.blocks
        table += array("q", [null_block]) * (width - len(sequence.blocks))
    return table


def _table(blocks: "array[int]", on_device: torch.Tensor, num_rows: int) -> Table:
    """The same blocks on host and device as a table [num_rows, N]."""
    neighbours = num_rows == 1 and blocks == array("q", range(blocks[0], blocks[0] + len(blocks)))
    return Table(on_device.view(num_rows, -1), blocks[0] if neighbours else None)


def _joined(parts: "list[array[int]]") -> "array[int]":
    whole = array("q")
    for part in parts:
        whole += part
    return whole
