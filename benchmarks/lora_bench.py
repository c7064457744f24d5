"""What LoRA adapters cost a step: a batch of several adapters and none, beside the merged model's plain batch.

    python benchmarks/lora_bench.py                                     qwen3-60m on the CPU, four adapters of rank 16
    python benchmarks/lora_bench.py --model qwen3-8b --device cuda --dtype bfloat16

Two engines take turns: one of the model into which an adapter is merged, as peft would save it, and one with room for
adapters. Each has a process of its own, as a worker has: torch.compile gives up on a second model of the same code in
one process. Times on a CPU are processor time, so that other work on the machine counts less.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import typer
from bench_models import find_model
from engine_bench import Dtype, numbers, say
from engine_rig import Place, Rig
from machine import load_average, machine, today, versions
from tables import markdown, number, ratio

from tokenyard.broker.wire import PLAIN, AdapterKey

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CASES = ("merged", "none", "one", "mixed")
WORDS = {
    "merged": "the merged model, no room for adapters",
    "none": "room for them, no sequence has one",
    "one": "all sequences with the same",
    "mixed": "each and none in turn",
}
MERGED_SEED = 1
CONTEXT = 128
"""Tokens before those that are measured: few, so that products are most of a step."""


class Cell(NamedTuple):
    """One case at one size: a decode of `size` sequences, or a prompt of `size` tokens."""

    kind: str
    size: int
    case: str
    ms: float
    """Median."""


class Shape(NamedTuple):
    """How much is measured, and where."""

    device: str
    batches: list[int]
    prompt: int
    rounds: int
    num_steps: int


def write_adapter(model: Path, directory: Path, rank: int, seed: int) -> Path:
    """Random, of all linear layers, in peft's files."""
    import torch
    from safetensors.torch import load_file, save_file

    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path in sorted(model.glob("*.safetensors")):
        for name, weight in load_file(path).items():
            layer = name.removesuffix(".weight")
            if layer.endswith(LAYERS):
                for side, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
                    tensor = torch.randn(shape, generator=generator) * 0.01
                    tensors[f"base_model.model.{layer}.lora_{side}.weight"] = tensor.bfloat16()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(LAYERS)}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def merge(model: Path, adapter: Path, directory: Path) -> Path:
    """The model with an adapter in it, in the types that its files have."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, directory)
    parts = load_file(adapter / "adapter_model.safetensors")
    for path in sorted(directory.glob("*.safetensors")):
        tensors = load_file(path)
        for name, weight in tensors.items():
            prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            if f"{prefix}A.weight" in parts:
                down, up = (parts[f"{prefix}{side}.weight"].float() for side in "AB")
                tensors[name] = (weight.float() + up @ down).to(weight.dtype)
        save_file(tensors, path, metadata={"format": "pt"})
    return directory


RIGS: list[tuple[Rig, list[AdapterKey]]] = []
"""Of a process: its engine, and no adapter followed by all that the engine holds."""


def engine_process(place: Place, adapters: list[Path]) -> ProcessPoolExecutor:
    """A process with one engine, ready to measure."""
    process = ProcessPoolExecutor(1, get_context("spawn"), open_rig, (place, adapters))
    process.submit(len, RIGS).result()  # once it is open
    return process


def open_rig(place: Place, adapters: list[Path]) -> None:
    rig = Rig(place)
    RIGS.append((rig, [PLAIN, *hold(rig, adapters)] if adapters else [PLAIN]))


def hold(rig: Rig, adapters: list[Path]) -> list[AdapterKey]:
    from tokenyard.workers.adapter_files import read_adapter

    rack = rig.engine.model.rack
    assert rack is not None
    keys = []
    for index, directory in enumerate(adapters, 1):
        files = read_adapter(str(directory), rack.sizes, rack.rank, rack.dtype)
        keys.append(AdapterKey(f"lora-{index}", files.version))
        rig.engine.adapters.hold(keys[-1], files.products)
    return keys


def clock(device: str) -> Callable[[], float]:
    """Milliseconds; on a GPU when all that was launched is done."""
    if device == "cpu":
        return lambda: 1e3 * time.process_time()
    import torch

    def synchronized() -> float:
        torch.cuda.synchronize()
        return 1e3 * time.perf_counter()

    return synchronized


def decode_ms(device: str, adapters: list[int], num_steps: int) -> float:
    """Median of some steps of a batch, one sequence for each of `adapters`; 0 is none. In the engine's process."""
    ((rig, kinds),), now_ms = RIGS, clock(device)
    first = rig.num_jobs
    keys = [rig.add(first + seed, CONTEXT, 4 * num_steps, kinds[one]) for seed, one in enumerate(adapters)]
    begun: set[Any] = set()
    while len(begun) < len(keys):
        begun |= set(rig.step()[1])
    times = []
    for _ in range(num_steps):
        began_ms = now_ms()
        rig.step()
        times.append(now_ms() - began_ms)
    rig.drop(keys)
    rig.drain()
    return median(times)


def prompt_ms(device: str, adapter: int, num_tokens: int) -> float:
    """One prompt alone, in one step. In the engine's process."""
    ((rig, kinds),), now_ms = RIGS, clock(device)
    key = rig.add(rig.num_jobs, num_tokens, 2, kinds[adapter])
    began_ms = now_ms()
    rig.step()
    took_ms = now_ms() - began_ms
    rig.drop([key])
    rig.drain()
    return took_ms


def measure(plain: ProcessPoolExecutor, roomy: ProcessPoolExecutor, num_adapters: int, shape: Shape) -> list[Cell]:
    """All cases in turn, some times over; medians of each."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for _ in range(shape.rounds):
        for batch in shape.batches:
            for case in CASES if batch > 1 else CASES[:-1]:
                adapters = [row % (1 + num_adapters) if case == "mixed" else int(case == "one") for row in range(batch)]
                process = plain if case == "merged" else roomy
                took = process.submit(decode_ms, shape.device, adapters, shape.num_steps).result()
                found.setdefault(("decode", batch, case), []).append(took)
        for case in CASES[:-1]:
            process = plain if case == "merged" else roomy
            took = process.submit(prompt_ms, shape.device, int(case == "one"), shape.prompt).result()
            found.setdefault(("prompt", shape.prompt, case), []).append(took)
    return [Cell(*key, median(times)) for key, times in found.items()]


def report(conditions: dict[str, str], cells: list[Cell]) -> str:
    rows = []
    for kind, size in dict.fromkeys((cell.kind, cell.size) for cell in cells):
        times = {cell.case: cell.ms for cell in cells if (cell.kind, cell.size) == (kind, size)}
        what = f"decode of {size}" if kind == "decode" else f"prompt of {size}"
        shown = [f"{number(ms)} ms" if case == "merged" else _beside(ms, times["merged"]) for case, ms in times.items()]
        rows.append([what, *shown, *[""] * (len(CASES) - len(shown))])
    facts = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
    return f"{facts}\n\n{markdown(['step', *WORDS.values()], rows)}"


def _beside(ms: float, base_ms: float) -> str:
    return f"{number(ms)} ms ({ratio(ms, base_ms)})"


def main(
    model: Annotated[str, typer.Option(help="A name of bench_models, demo or a directory.")] = "qwen3-60m",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[Dtype, typer.Option()] = Dtype.FLOAT32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each engine.")] = 1,
    adapters: Annotated[int, typer.Option(min=1, help="How many are loaded.")] = 4,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    batches: Annotated[str, typer.Option(help="With commas.")] = "1,8,32",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Of each decode.")] = 16,
    kv_memory: Annotated[str, typer.Option(help="Of each engine.")] = "2GiB",
) -> None:
    """Measure and print a table as Markdown; progress goes to stderr."""
    base = Path(find_model(model, device))
    with tempfile.TemporaryDirectory() as folder:
        made = [write_adapter(base, Path(folder) / str(seed), rank, seed) for seed in range(1, adapters + 1)]
        merged = merge(base, made[MERGED_SEED - 1], Path(folder) / "merged")
        options: dict[str, Any] = {"kv_memory": kv_memory, "max_num_batched_tokens": max(512, prompt)}
        place = Place(str(base), device, dtype, threads, options)
        say("the merged model")
        with engine_process(place._replace(model=str(merged)), []) as plain:
            say(f"the model with room for {adapters} adapters")
            room = place._replace(options=options | {"max_loras": adapters, "max_lora_rank": rank})
            with engine_process(room, made) as roomy:
                cells = measure(plain, roomy, adapters, Shape(device, numbers(batches), prompt, rounds, steps))
    conditions = {
        "date": today(),
        "machine": machine(device),
        "load average at the end": load_average(),
        "model": f"{model}, {dtype} on {device}, {threads} thread(s)",
        "adapters": f"{adapters} of rank {rank}, of all linear layers",
        "versions": versions(),
    }
    typer.echo(report(conditions, cells))


if __name__ == "__main__":
    typer.run(main)
