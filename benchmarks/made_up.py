"""Long contexts without computing them: prompts that an engine takes for cached, with made-up keys and values.

A decode step costs the same, and to compute 262,144 tokens takes a CPU minutes. On the paged lane only: others keep
no prefixes, and compute these prompts.
"""

import torch
from engine_rig import Rig, random_ids

from tokenyard.broker.params import Params
from tokenyard.broker.wire import WorkerJob
from tokenyard.workers.kv import KVPool
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.scheduler import Sequence

NOBODY = WorkerJob(b"bench", 0, 1)


def remember(rig: Rig, seed: int, num_prompt: int) -> None:
    """Let the prompt of this seed count as computed, but for its last tokens; the seed must be new to the engine."""
    if rig.card.lane != "paged":
        return
    scheduler, lane = rig.engine._scheduler, rig.engine._lane
    prompt = Sequence(NOBODY, random_ids(seed, num_prompt, rig.card.vocab_size), [], Params(max_tokens=1))
    blocks = scheduler.pool.allocate((num_prompt - 1) // rig.card.block_size)
    if isinstance(lane, PagedLane) and blocks:  # memory of a CPU that was never written is quicker to read
        _write_ones(lane.pool, blocks)
    for index, block in enumerate(blocks):
        scheduler.pool.publish(block, scheduler._key(prompt, index))
    scheduler.pool.release(blocks)


def _write_ones(pool: KVPool, blocks: list[int]) -> None:
    slots = (torch.tensor(blocks).unsqueeze(1) * pool.block_size + torch.arange(pool.block_size)).flatten()
    for layer in range(pool.num_layers):
        keys, values = pool.layer(layer)
        slots = slots.to(keys.device)
        ones = (keys.new_ones(len(slots), *keys.shape[1:]), values.new_ones(len(slots), *values.shape[1:]))
        pool.write(layer, slots, *ones)
