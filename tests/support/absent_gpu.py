"""Compiles the kernels as a launch would, for a GPU that is not there, and prints the shared memory that each takes.

    python absent_gpu.py CAPABILITY common|large

A process of its own: once Triton's interpreter is on, there is no compiler, and the other way round.
"""

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from tokenyard.workers.attention import Flavour
from tokenyard.workers.chunks import Chunks
from tokenyard.workers.triton_decode import decode
from tokenyard.workers.triton_prefill import prefill
from tokenyard.workers.triton_write import write

DEVICE = torch.device("meta")
LAUNCH = JITFunction.run


class AbsentGPU:
    """What Triton asks a device before it compiles."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    compiled = LAUNCH(kernel, *args, grid=grid, warmup=True, **options)
    sys.stdout.write(f"{kernel.__name__} {compiled.metadata.shared}\n")


def compile_all(dtype: torch.dtype, num_heads: int, num_kv_heads: int, dim: int, flavour: Flavour) -> None:
    query = torch.empty(8, num_heads, dim, dtype=dtype, device=DEVICE)
    key = torch.empty(8, num_kv_heads, dim, dtype=dtype, device=DEVICE)
    pool = torch.empty(256, num_kv_heads, dim, dtype=dtype, device=DEVICE)
    table = torch.empty(8, 16, dtype=torch.int32, device=DEVICE)
    numbers = torch.empty(9, dtype=torch.int32, device=DEVICE)
    write(key, key, pool, pool, numbers[:8].long())
    num_splits = 1 if flavour.softcap else 4
    decode(query, pool, pool, table, numbers[:8], *flavour, torch.empty_like(query), num_splits=num_splits)
    prefill(
        query, pool, pool, Chunks([(1, 100)] * 8, 16, table, numbers, numbers[:8]), flavour, torch.empty_like(query)
    )


driver.set_active(AbsentGPU(int(sys.argv[1])))
JITFunction.run = compile_only
if sys.argv[2] == "common":
    sinks = torch.empty(32, dtype=torch.bfloat16, device=DEVICE)
    compile_all(torch.bfloat16, 32, 8, 128, Flavour(0.1, None, None, None))
    compile_all(torch.bfloat16, 32, 8, 96, Flavour(0.1, 128, 30.0, sinks))
else:
    compile_all(torch.bfloat16, 4, 1, 256, Flavour(0.1, None, None, None))
    compile_all(torch.float32, 32, 8, 128, Flavour(0.1, None, None, None))
