"""The attention kernels alone: how near a paged decode comes to the device's memory bandwidth, and prefill's rates.

    python benchmarks/attention_bench.py                            heads of Qwen3-8B in bfloat16 on the GPU
    python benchmarks/attention_bench.py --heads 64 --dim 64
    python benchmarks/attention_bench.py --quick --heads 4          toy sizes; without a GPU, in Triton's interpreter

A decode must read every key and value once: that is its roofline. Each cell runs as a CUDA graph over several layers'
pools, so many that no cache holds them.
"""

import os
import time
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer
from machine import machine, today, versions
from roofline import Device, measure_device
from tables import markdown, number

BLOCK = 16
"""Tokens in a block, as the engine's default."""
COLD_BYTES = 256 << 20
"""Keys and values that one run reads at least: several times an H200's 50 MB of L2."""
MAX_LAYERS = 64
"""Of one run; smaller cells are warm in L2, as they are in a model."""
POOL_SHARE = 0.8
"""Cells that would hold more of the free memory are left out."""
REPEATS = 20
"""The median of so many runs."""


class Heads(NamedTuple):
    """What one layer is made of."""

    num_heads: int
    num_kv_heads: int
    dim: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """Key and value of one token."""
        return 2 * self.num_kv_heads * self.dim * self.dtype.itemsize


class Shape(NamedTuple):
    """How much is measured."""

    decodes: list[tuple[int, int]]
    """Batch and context."""
    prefills: list[tuple[int, int]]
    """Tokens of one prompt, and how many of them are cached."""


FULL = Shape(
    list(product((1, 4, 16, 64, 256), (128, 512, 1024, 2048, 4096, 8192))),
    [(512, 0), (2048, 0), (8192, 0), (2048, 1536), (8192, 7680)],
)
QUICK = Shape([(1, 20), (2, 40)], [(20, 0), (40, 20)])
DECODE_HEAD = ["batch", "context", "µs a layer", "GB/s", "of the copy"]
PREFILL_HEAD = ["kernel", "tokens", "cached", "µs a layer", "TFLOP/s", "of a product"]


class Decode(NamedTuple):
    """One cell."""

    batch: int
    context: int
    layer_us: float
    """Of one layer's attention."""
    bytes_per_s: float


class Prefill(NamedTuple):
    """One prompt of `num_tokens`, of which the first `num_before` are cached."""

    kernel: str
    num_tokens: int
    num_before: int
    layer_us: float
    flop_per_s: float


class Pool(NamedTuple):
    """Keys and values of some sequences of one length, in scattered blocks, in several layers."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    table: torch.Tensor
    lengths: torch.Tensor


def make_pool(heads: Heads, batch: int, context: int, num_layers: int, device: str) -> Pool:
    num_blocks = -(-context // BLOCK)
    shape = (batch * num_blocks * BLOCK, heads.num_kv_heads, heads.dim)
    tensors = [torch.randn(shape, device=device, dtype=heads.dtype) for _ in range(2 * num_layers)]
    table = torch.randperm(batch * num_blocks, device=device).int().view(batch, num_blocks)
    return Pool(tensors[::2], tensors[1::2], table, torch.full((batch,), context, dtype=torch.int32, device=device))


def measure_decode(heads: Heads, batch: int, context: int, device: str) -> Decode:
    from tokenyard.workers.triton_decode import decode

    layer_bytes = batch * context * heads.token_bytes
    num_layers = min(MAX_LAYERS, max(1, COLD_BYTES // layer_bytes)) if device == "cuda" else 1
    pool = make_pool(heads, batch, context, num_layers, device)
    query = torch.randn(batch, heads.num_heads, heads.dim, device=device, dtype=heads.dtype)
    out = torch.empty_like(query)

    def work() -> None:
        for keys, values in zip(pool.keys, pool.values, strict=True):
            scaling = heads.dim**-0.5
            decode(query, keys, values, pool.table, pool.lengths, scaling, None, None, None, out, block_size=BLOCK)

    layer_s = run_s(recorded(work, device), device) / num_layers
    return Decode(batch, context, layer_s * 1e6, layer_bytes / layer_s)


def measure_prefill(heads: Heads, num_tokens: int, num_before: int, device: str) -> list[Prefill]:
    """Triton's kernel, and flash attention where it is there."""
    from tokenyard.workers import varlen
    from tokenyard.workers.attention import Flavour
    from tokenyard.workers.chunks import Chunks
    from tokenyard.workers.triton_prefill import prefill

    num_queries = num_tokens - num_before
    pool = make_pool(heads, 1, num_tokens, 1, device)
    flavour = Flavour(heads.dim**-0.5, None, None, None)
    query = torch.randn(num_queries, heads.num_heads, heads.dim, device=device, dtype=heads.dtype)
    own = torch.randn(num_queries, heads.num_kv_heads, heads.dim, device=device, dtype=heads.dtype)
    out = torch.empty_like(query)
    starts = torch.tensor([0, num_queries], dtype=torch.int32, device=device)
    chunks = Chunks([(num_queries, num_tokens)], BLOCK, pool.table, starts, pool.lengths)

    def flash() -> None:
        keys, values = varlen.packed_keys(own, own, pool.keys[0], pool.values[0], chunks)
        varlen.prefill(query, keys, values, chunks, flavour)

    kernels = {"Triton": lambda: prefill(query, pool.keys[0], pool.values[0], chunks, flavour, out)}
    if varlen.fits(query, own, flavour):
        kernels["flash"] = flash
    num_pairs = num_queries * (num_before + (num_queries + 1) / 2)
    flop = 4 * num_pairs * heads.num_heads * heads.dim
    times_s = {name: run_s(kernel, device) for name, kernel in kernels.items()}
    return [Prefill(name, num_tokens, num_before, one * 1e6, flop / one) for name, one in times_s.items()]


def recorded(work: Callable[[], None], device: str) -> Callable[[], None]:
    """As a CUDA graph, where there is a GPU."""
    if device == "cpu":
        return work
    from tokenyard.workers.graphs import CudaRecorder

    recorder = CudaRecorder(torch.device(device))
    recorder.warm_up(work)
    return recorder(work).replay


def run_s(work: Callable[[], None], device: str) -> float:
    """Median time of the device; the first run is not counted."""
    if device == "cpu":
        start_s = time.perf_counter()
        work()
        return time.perf_counter() - start_s
    times_ms = []
    for _ in range(REPEATS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        times_ms.append(start.elapsed_time(end))
    return float(median(times_ms[1:])) / 1e3


def main(
    num_heads: Annotated[int, typer.Option("--heads")] = 32,
    num_kv_heads: Annotated[int, typer.Option("--kv-heads")] = 8,
    dim: int = 128,
    dtype: str = "bfloat16",
    quick: Annotated[bool, typer.Option(help="Toy sizes, to see that it works.")] = False,
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        if not quick:
            raise typer.BadParameter("there is no GPU: only --quick, in Triton's interpreter")
        os.environ["TRITON_INTERPRET"] = "1"  # read once, when triton is imported
    heads = Heads(num_heads, num_kv_heads, dim, getattr(torch, dtype))
    speed = measure_device(device, dtype, threads=1)
    typer.echo(f"{machine(device)}; {versions()}; {today()}")
    typer.echo(
        f"{num_heads} heads on {num_kv_heads} of {dim}, {dtype}; a copy moves {speed.bytes_per_s / 1e9:,.0f} GB/s"
    )
    shape = QUICK if quick else FULL
    room = POOL_SHARE * torch.cuda.mem_get_info()[0] if device == "cuda" else COLD_BYTES
    cells = [cell for cell in shape.decodes if cell[0] * cell[1] * heads.token_bytes <= room]
    decodes = [measure_decode(heads, *cell, device) for cell in cells]
    typer.echo(markdown(DECODE_HEAD, [decode_cells(one, speed) for one in decodes]))
    prefills = [one for cell in shape.prefills for one in measure_prefill(heads, *cell, device)]
    typer.echo(markdown(PREFILL_HEAD, [prefill_cells(one, speed) for one in prefills]))


def decode_cells(one: Decode, speed: Device) -> list[str]:
    share = one.bytes_per_s / speed.bytes_per_s
    return [f"{one.batch:,}", f"{one.context:,}", number(one.layer_us), number(one.bytes_per_s / 1e9), f"{share:.0%}"]


def prefill_cells(one: Prefill, speed: Device) -> list[str]:
    share = one.flop_per_s / speed.flop_per_s
    sizes = [f"{one.num_tokens:,}", f"{one.num_before:,}"]
    return [one.kernel, *sizes, number(one.layer_us), f"{one.flop_per_s / 1e12:.3g}", f"{share:.0%}"]


if __name__ == "__main__":
    typer.run(main)
