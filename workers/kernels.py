"""What of our own kernels a device can run, and what follows: how its block pool is written and its steps are packed.

Triton's kernels serve CUDA wherever Triton can compile. Everything else attends as attention.Step does. Must not know
of models or lanes.
"""

import logging
from functools import cache
from subprocess import CalledProcessError

import torch

from tokenyard.workers import batch
from tokenyard.workers.batch import Batch
from tokenyard.workers.kv import KVPool, LayerShape, copy_in
from tokenyard.workers.scheduler import Plan

log = logging.getLogger(__name__)


@cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton can compile and launch there, found by trying; says so in one log line."""
    if device.type != "cuda":
        return False
    try:
        from tokenyard.workers.triton_write import write

        token, slot = torch.zeros(1, 1, 16, device=device), torch.zeros(1, dtype=torch.int64, device=device)
        write(token, token, token.clone(), token.clone(), slot)
    except (ImportError, OSError, RuntimeError, CalledProcessError) as failure:  # no Triton, C compiler or Python.h
        words = str(failure).strip().partition("\n")[0]
        log.warning("Triton does not work, so attention gathers keys and values, which is slower: %s", words)
        return False
    log.info("attention runs on Triton's kernels")
    return True


def make_pool(
    shapes: list[LayerShape], num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> KVPool:
    """A block pool that is written in the fastest way."""
    write = copy_in
    if triton_works(device):
        from tokenyard.workers.triton_write import write
    return KVPool(shapes, num_blocks, block_size, dtype, device, write)


def pack(plan: Plan, pool: KVPool, device: torch.device) -> Batch:
    """One step's input, for the kernels of the device."""
    if triton_works(device):
        from tokenyard.workers import packed_step

        return packed_step.pack(plan, pool, device)
    return batch.pack(plan, pool, device)
