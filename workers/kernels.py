"""Which kernels attend for a model on its device, and what follows: how its block pool is written, its steps packed.

Triton's kernels serve CUDA wherever Triton can compile them for the model's heads. Everything else attends as
attention.Step does. Must not know of models or lanes.
"""

import logging
from collections.abc import Callable, Collection
from functools import cache
from subprocess import CalledProcessError
from typing import NamedTuple

import torch

from tokenyard.broker.errors import first_line
from tokenyard.workers import batch
from tokenyard.workers.batch import Batch
from tokenyard.workers.kv import KVPool, LayerShape, Write, copy_in
from tokenyard.workers.scheduler import Plan
from tokenyard.workers.static_step import DecodeKernel

FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)
"""What modeling code raises when it is run in a way that it does not know."""

log = logging.getLogger(__name__)


class Kernels(NamedTuple):
    """One way to attend."""

    write: Write
    pack: Callable[[Plan, KVPool, torch.device], Batch]
    """One step's input."""
    decode: DecodeKernel | None
    """Reads no more of a block table than its sequence has; None: there is none such."""

    def make_pool(
        self, shapes: list[LayerShape], num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> KVPool:
        """A block pool that is written in this way."""
        return KVPool(shapes, num_blocks, block_size, dtype, device, self.write)


TORCH = Kernels(copy_in, batch.pack, None)
"""Runs everywhere."""


def choose(shapes: Collection[LayerShape], dtype: torch.dtype, device: torch.device) -> Kernels:
    """The fastest that works there for these layers, found by trying; says so in one log line."""
    return _chosen(frozenset(shapes), dtype, device) if device.type == "cuda" else TORCH


@cache
def _chosen(shapes: frozenset[LayerShape], dtype: torch.dtype, device: torch.device) -> Kernels:
    try:
        kernels = _tried(shapes, dtype, device)
    except compile_failures() as failure:
        words = "Triton does not work, so attention gathers keys and values, which is slower: %s"
        log.warning(words, first_line(failure))
        return TORCH
    log.info("attention runs on Triton's kernels")
    return kernels


def _tried(shapes: Collection[LayerShape], dtype: torch.dtype, device: torch.device) -> Kernels:
    """Triton's, after each has run once for each shape. Raises one of compile_failures()."""
    from tokenyard.workers import packed_step
    from tokenyard.workers.triton_decode import decode
    from tokenyard.workers.triton_trial import run_all
    from tokenyard.workers.triton_write import write

    for shape in shapes:
        run_all(shape, dtype, device)
    return Kernels(write, packed_step.pack, decode)


@cache
def compile_failures() -> tuple[type[Exception], ...]:
    """What is raised where code does not run, or cannot be compiled for want of Triton, a C compiler or room."""
    known = (*FAILURES, ImportError, OSError, CalledProcessError)
    try:
        from triton.errors import TritonError
    except ImportError:
        return known
    return (*known, TritonError)  # which is none of the others
