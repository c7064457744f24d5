"""From a plan to tensors: packs the tokens of one step and all that attention needs to know, in one copy to the device.

Must not decide what runs (scheduler.py) nor how it is computed (attention.py).
"""

from typing import NamedTuple

import numpy as np
import torch

from tokenyard.workers.attention import Span, Step
from tokenyard.workers.kv import KVPool
from tokenyard.workers.scheduler import Plan, Sequence


class Batch(NamedTuple):
    """One step's input. T tokens in all, of which R end a sequence and are sampled after."""

    input_ids: torch.Tensor  # [1, T]
    position_ids: torch.Tensor  # [1, T]
    logit_rows: torch.Tensor  # [R], into T
    step: Step
    sampled: list[Sequence]
    """R sequences, in the order of logit_rows."""


def pack(plan: Plan, pool: KVPool, device: torch.device) -> Batch:
    """Lay out a plan: decodes first, then prefill chunks one after another."""
    size = pool.block_size
    decodes = plan.decodes
    num_decodes = len(decodes)
    num_tokens = num_decodes + sum(end - start for _, start, end in plan.prefills)
    width = max((len(one.blocks) for one in decodes), default=0)
    num_sampled = num_decodes + sum(end == len(sequence.ids) for sequence, _, end in plan.prefills)
    sections = [num_tokens, num_tokens, num_tokens, num_sampled, num_decodes * width]
    sections += [-(-end // size) for _, _, end in plan.prefills]
    packed = np.zeros(sum(sections), np.int64)
    ids, positions, slots, rows, flat_tables, *chunk_tables = np.split(packed, np.cumsum(sections[:-1]))
    tables = flat_tables.reshape(num_decodes, width)
    sampled = list(decodes)
    rows[:num_decodes] = np.arange(num_decodes)
    for row, sequence in enumerate(decodes):
        position = sequence.num_computed
        ids[row] = sequence.ids[position]
        positions[row] = position
        slots[row] = sequence.blocks[position // size] * size + position % size
        tables[row, : len(sequence.blocks)] = sequence.blocks
        tables[row, len(sequence.blocks) :] = pool.null_block
    at = num_decodes
    for (sequence, start, end), table in zip(plan.prefills, chunk_tables, strict=True):
        own = slice(at, at + end - start)
        at = own.stop
        ids[own] = sequence.ids[start:end]
        places = np.arange(start, end)
        positions[own] = places
        table[:] = sequence.blocks[: len(table)]
        slots[own] = table[places // size] * size + places % size
        if end == len(sequence.ids):
            rows[len(sampled)] = at - 1
            sampled.append(sequence)
    return _on_device(plan, torch.from_numpy(packed).to(device, non_blocking=True), sections, sampled, pool)


def _on_device(plan: Plan, packed: torch.Tensor, sections: list[int], sampled: list[Sequence], pool: KVPool) -> Batch:
    ids, positions, slots, rows, tables, *chunk_tables = torch.split(packed, sections)
    num_decodes = len(plan.decodes)
    spans = []
    at = num_decodes
    for (_, start, end), table in zip(plan.prefills, chunk_tables, strict=True):
        spans.append(Span(at, at + end - start, start, table.unsqueeze(0)))
        at += end - start
    step = Step(
        pool, slots, tables.view(num_decodes, -1) if num_decodes else tables.view(0, 0), positions[:num_decodes], spans
    )
    return Batch(ids.unsqueeze(0), positions.unsqueeze(0), rows, step, sampled)
