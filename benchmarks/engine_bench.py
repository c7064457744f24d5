"""The engine without HTTP: step times, prefill rates, their share of what the device could do, and uneven requests.

    python benchmarks/engine_bench.py                                       qwen3-60m on the CPU
    python benchmarks/engine_bench.py --model qwen3-8b --device cuda --dtype bfloat16
    python benchmarks/engine_bench.py --model demo --quick --engines ours   some seconds, to see that it works

Requests of uneven lengths, and sixteen of one length, also run through transformers' continuous batching
(what `generate_batch` does), each engine in processes of its own, in turn: ours, theirs, ours, theirs.
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from bench_models import find_model
from engine_rig import Place, Rig
from engine_steps import Decode, Prefill, Profile, cells, measure_decode, measure_prefill, profile_decode
from engine_tables import DECODE_HEAD, PREFILL_HEAD, RATES_HEAD, decode_cells, percent, prefill_cells, rates_cells
from machine import load_average, machine, today, versions
from offline import Rates, compare, uneven
from offline_run import BATCHING, OURS, STEP_TOKENS, Ask
from roofline import Device, Work, measure_device, untuned, work_of
from tables import TARGET_HEAD, markdown, target_cells
from targets import Target, engine_targets


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Shape(NamedTuple):
    """How much is measured."""

    batches: list[int]
    contexts: list[int]
    num_steps: int
    """Of each decode cell."""
    max_cell_tokens: int
    """Cells that would hold more are left out: their steps take too long."""
    prompts: list[int]
    rounds: int
    num_uneven: int
    uneven_range: tuple[int, int]
    num_same: int
    same_tokens: int
    profile_batch: int


BATCHES, CONTEXTS, PROMPTS = (
    [1, 2, 4, 8, 16, 32, 64, 128, 256],
    [128, 1024, 8192],
    [64, 128, 256, 512, 1024, 2048, 8192],
)
FULL = {
    "cpu": Shape(BATCHES, CONTEXTS, 16, 1 << 18, PROMPTS[:-1], 3, 24, (16, 256), 16, 1024, 16),
    "cuda": Shape(BATCHES, CONTEXTS, 64, 1 << 21, PROMPTS, 5, 256, (100, 1024), 16, 1024, 32),
}
CPU_POOL = "7GiB"
"""KV pool on a CPU: 2^18 tokens of qwen3-60m in float32 take 24 KiB each, and what their sequences emit a little more.
Memory is taken only where it is written."""
QUICK = Shape([1, 4], [32, 128], 4, 1 << 20, [32, 128], 1, 4, (4, 16), 4, 64, 4)
SAME_NEW_TOKENS = 64
"""Output of each of the requests of one length: more than the steps in which the last ones' prompts are computed."""


class Steps(NamedTuple):
    """What one engine in this process told."""

    device: Device
    work: Work
    decodes: list[Decode]
    prefills: list[Prefill]
    profile: Profile | None


class Results(NamedTuple):
    """What one run found."""

    conditions: dict[str, str]
    shape: Shape
    steps: Steps
    same_length: list[Rates]
    uneven: list[Rates]
    targets: list[Target]

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = _plain(self)
        steps: dict[str, Any] = found.pop("steps")
        return found | steps


def _plain(value: Any) -> Any:
    """Named tuples as dictionaries, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: _plain(one) for name, one in value._asdict().items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def say(words: str) -> None:
    typer.echo(words, err=True)


def measure_steps(place: Place, shape: Shape, *, profiled: bool) -> Steps:
    widest = max(shape.batches)
    room: dict[str, Any] = {"max_num_seqs": widest, "max_num_batched_tokens": max(STEP_TOKENS, widest)}
    if place.device == "cpu":
        room["kv_memory"] = CPU_POOL
    device = measure_device(place.device, place.dtype, place.threads)
    say(f"the device moves {device.bytes_per_s / 1e9:,.1f} GB/s and does {device.flop_per_s / 1e12:,.3f} TFLOP/s")
    rig = Rig(place._replace(options={**room, **place.options}))
    work = work_of(untuned(rig.engine.model.model))
    decodes, prefills = [], []
    for batch, context in cells(shape.batches, shape.contexts, shape.num_steps, rig, shape.max_cell_tokens):
        decodes.append(measure_decode(rig, batch, context, shape.num_steps, work, device))
        say(f"batch {batch}, context {context}: {decodes[-1].step_ms:.2f} ms")
    for num_tokens in shape.prompts:
        prefills.append(measure_prefill(rig, num_tokens, shape.rounds, work, device))
        say(f"prompt of {num_tokens}: {prefills[-1].tokens_per_s:.0f} tokens/s")
    profile = profile_decode(rig, shape.profile_batch, shape.contexts[0], shape.num_steps) if profiled else None
    return Steps(device, work, decodes, prefills, profile)


def parse_options(given: list[str]) -> dict[str, Any]:
    """`name=value` pairs; values as JSON where they are JSON, else words."""
    options: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {one}: give name=value")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(
    model: Annotated[str, typer.Option(help="A name of bench_models, demo, a directory or a Hub name.")] = "qwen3-60m",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="Of all engines.")] = Dtype.FLOAT32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each engine.")] = 1,
    engines: Annotated[str, typer.Option(help="Which run the batches of requests.")] = f"{OURS},{BATCHING}",
    batches: Annotated[str | None, typer.Option(help="With commas.")] = None,
    contexts: Annotated[str | None, typer.Option(help="With commas.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Lengths of prompts alone, with commas.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of a decode cell; larger ones are left out.")] = None,
    requests: Annotated[int | None, typer.Option(help="Of uneven lengths; 0: none.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Repetitions of what is not a step.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time of a step goes.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help="name=value: more of WorkerOptions.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny numbers, to see that it works.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write all figures there as JSON.")] = None,
) -> None:
    """Measure the engine and print its tables as Markdown; progress goes to stderr."""
    base = QUICK if quick else FULL["cpu" if device == "cpu" else "cuda"]
    shape = base._replace(
        batches=numbers(batches) if batches else base.batches,
        contexts=numbers(contexts) if contexts else base.contexts,
        prompts=numbers(prompts) if prompts else base.prompts,
        max_cell_tokens=max_tokens or base.max_cell_tokens,
        num_uneven=base.num_uneven if requests is None else requests,
        rounds=rounds or base.rounds,
    )
    place = Place(find_model(model, device), device, dtype, threads, parse_options(settings or []))
    who = [one for one in engines.split(",") if one]
    # requests first: the engine of this process takes nearly all of a GPU's memory
    same = compare(who, place, [Ask(shape.same_tokens, SAME_NEW_TOKENS)] * shape.num_same, shape.rounds)
    asks = uneven(shape.num_uneven, *shape.uneven_range)
    rates = compare(who, place, asks, shape.rounds) if asks else []
    steps = measure_steps(place, shape, profiled=profile or device != "cpu")
    targets = [] if quick else engine_targets(model, device, steps.decodes, steps.profile, same, rates)
    results = Results(conditions(model, place, shape), shape, steps, same, rates, targets)
    typer.echo(report(results, show_profile=profile))
    if out is not None:
        out.write_text(json.dumps({"arguments": sys.argv[1:], **results.as_dict()}, indent=1) + "\n")


def conditions(model: str, place: Place, shape: Shape) -> dict[str, str]:
    """What must stand beside the numbers."""
    more = "".join(f", {name} {value}" for name, value in place.options.items())
    return {
        "date": today(),
        "machine": machine(place.device),
        "load average at the end": load_average(),
        "model": model,
        "dtype and device": f"{place.dtype} on {place.device}, {place.threads} engine thread(s){more}",
        "steps": f"median of {shape.num_steps} in each cell; the rest: median of {shape.rounds} rounds",
        "versions": versions(),
    }


def report(results: Results, *, show_profile: bool) -> str:
    """Conditions and all tables."""
    shape, steps, profile = results.shape, results.steps, results.steps.profile
    speeds = f"{steps.device.bytes_per_s / 1e9:,.1f} GB/s, {steps.device.flop_per_s / 1e12:,.3f} TFLOP/s"
    parts = [
        *(f"- {name}: {value}" for name, value in results.conditions.items()),
        f"- the device at best, measured in this run: {speeds}",
        "\nDecode steps:\n",
        markdown(DECODE_HEAD, decode_cells(steps.decodes)),
        "\nOne prompt alone:\n",
        markdown(PREFILL_HEAD, prefill_cells(steps.prefills)),
    ]
    if results.same_length:
        lengths = f"{shape.num_same} requests of {shape.same_tokens:,} prompt and {SAME_NEW_TOKENS} output tokens"
        parts += [f"\n{lengths} at once:\n", markdown(RATES_HEAD, rates_cells(results.same_length))]
    if results.uneven:
        low, high = shape.uneven_range
        lengths = f"{shape.num_uneven} requests with prompt and output lengths uniform in {low:,}–{high:,}"
        parts += [f"\n{lengths}, at once:\n", markdown(RATES_HEAD, rates_cells(results.uneven))]
    if profile and profile.busy_share is not None:
        parts.append(f"\nGPU busy at batch {profile.batch}: {percent(profile.busy_share)}")
    if profile and show_profile:
        parts.append(f"\n```\n{profile.table}\n```")
    if results.targets:
        parts += ["\nTargets:\n", markdown(TARGET_HEAD, target_cells(results.targets))]
    return "\n".join(parts)


if __name__ == "__main__":
    typer.run(main)
