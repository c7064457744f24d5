"""Measures one engine: decode steps by batch and context, prompts by length, and what a profiler sees of a step."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from engine_rig import Rig
from roofline import Device, Work

from tokenyard.broker.wire import WorkerJob

GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of a profiler's trace that keep a GPU busy."""
NUM_PROFILE_ROWS = 20
NUM_SETTLING = 3
"""Steps of a batch before it is measured: those that run ahead give their tokens one call later."""
DECODE_SEED, PREFILL_SEED = 0, 50_000_000
"""Far apart, so that no prompt comes twice."""


class Decode(NamedTuple):
    """One cell: `batch` sequences with `context` tokens on the average over the measured steps."""

    batch: int
    context: int
    step_ms: float
    """Median."""
    tokens_per_s: float
    bandwidth_share: float
    """Bytes that must be read over what the device could have copied in that time."""
    compute_share: float


class Prefill(NamedTuple):
    """One prompt alone, computed in one step, or in several where it is longer than a step may be."""

    num_tokens: int
    num_steps: int
    ms: float
    tokens_per_s: float
    compute_share: float


class Profile(NamedTuple):
    """Of some decode steps."""

    batch: int
    context: int
    busy_share: float | None
    """Of the time from the first to the last kernel, in how much one ran; None on a CPU."""
    table: str
    """Operations by the time they took themselves."""


def cells(
    batches: Iterable[int], contexts: Iterable[int], num_steps: int, rig: Rig, max_tokens: int
) -> Iterator[tuple[int, int]]:
    """(batch, context) pairs that the engine can hold, of at most `max_tokens` in all."""
    card, batches = rig.card, list(batches)
    for context in contexts:
        longest = context + 2 * num_steps + card.block_size
        for batch in batches:
            fits = batch * longest <= card.pool_tokens and longest <= card.context_length
            if fits and batch * context <= max_tokens:
                yield batch, context


def begin_decoding(rig: Rig, batch: int, context: int, num_steps: int) -> list[WorkerJob]:
    """Sequences that all decode, `num_steps` / 2 short of the context, with keys and values of their own."""
    from made_up import remember  # here, as it brings torch, which serve_bench does without

    num_prompt = max(1, context - num_steps // 2)
    first_seed = DECODE_SEED + rig.num_jobs
    for seed in range(first_seed, first_seed + batch):
        remember(rig, seed, num_prompt)
    num_new = 2 * num_steps + rig.card.block_size
    keys = [rig.add(seed, num_prompt, num_new) for seed in range(first_seed, first_seed + batch)]
    waiting = set(keys)
    while waiting:
        waiting -= set(rig.step()[1])
    for _ in range(NUM_SETTLING):
        rig.step()
    return keys


def measure_decode(rig: Rig, batch: int, context: int, num_steps: int, work: Work, device: Device) -> Decode:
    keys = begin_decoding(rig, batch, context, num_steps)
    times_s = [time.perf_counter()]
    for _ in range(num_steps):
        now_s, got = rig.step()
        assert len(got) == batch, "every sequence has a token in each step"
        times_s.append(now_s)
    rig.drop(keys)
    step_s = median(after - before for before, after in pairwise(times_s))
    return Decode(
        batch=batch,
        context=context,
        step_ms=step_s * 1e3,
        tokens_per_s=batch / step_s,
        bandwidth_share=work.decode_bytes(batch, context) / step_s / device.bytes_per_s,
        compute_share=work.decode_flop(batch, context) / step_s / device.flop_per_s,
    )


def measure_prefill(rig: Rig, num_tokens: int, rounds: int, work: Work, device: Device) -> Prefill:
    """A prompt of so many tokens, new in each round; the first round is not counted."""
    times_s, num_steps = [], 0
    for number in range(rounds + 1):
        before = rig.engine.num_steps
        start_s = time.perf_counter()
        rig.add(PREFILL_SEED + 1_000_000 * number + num_tokens, num_tokens, 1)
        rig.drain()
        times_s.append(time.perf_counter() - start_s)
        num_steps = rig.engine.num_steps - before
    took_s = median(times_s[1:])
    return Prefill(
        num_tokens=num_tokens,
        num_steps=num_steps,
        ms=took_s * 1e3,
        tokens_per_s=num_tokens / took_s,
        compute_share=work.prefill_flop(num_tokens) / took_s / device.flop_per_s,
    )


def profile_decode(rig: Rig, batch: int, context: int, num_steps: int) -> Profile:
    from torch.profiler import ProfilerActivity, profile

    on_gpu = rig.engine.model.device.type == "cuda"
    keys = begin_decoding(rig, batch, context, num_steps)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(num_steps):
            rig.step()
    rig.drop(keys)
    by_own_time = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by_own_time, row_limit=NUM_PROFILE_ROWS, max_name_column_width=60)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "trace.json")
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())
    return Profile(batch, context, busy_share(gpu_spans_us(trace)) if on_gpu else None, table)


def gpu_spans_us(trace: dict[str, Any]) -> list[tuple[float, float]]:
    """[start, end) of everything that a profiler's trace says the GPU did."""
    events = [event for event in trace["traceEvents"] if event.get("cat") in GPU_WORK]
    return [(event["ts"], event["ts"] + event["dur"]) for event in events]


def busy_share(spans: Iterable[tuple[float, float]]) -> float:
    """How much of the time from the first start to the last end is in at least one span."""
    ordered = sorted(spans)
    if not ordered:
        raise ValueError("nothing ran on the device")
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / (reached - ordered[0][0])
