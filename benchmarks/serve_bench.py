"""Tokenyard beside `transformers serve` over HTTP: TTFT, ITL, tokens/s, and how a long prompt disturbs other streams.

    python benchmarks/serve_bench.py                        the demo model, all servers, c = 1, 8, 32
    python benchmarks/serve_bench.py --model Qwen/Qwen3-0.6B --device cuda --dtype bfloat16
    python benchmarks/serve_bench.py --model qwen3-60m      random weights of that shape, and the targets set for it
    python benchmarks/serve_bench.py --quick --servers ours

One server runs at a time, alone, warmed up. All get the same prompts in the same order, each prompt once. A round goes
through all servers, so that a slow minute of the machine meets none of them alone in all rounds.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from bench_models import find_model
from figures import Level, Stall, median_stall, read_stall, summarize, throughput
from machine import load_average, machine, today, versions
from peers import (
    BATCHING_NAME,
    DEFAULT_NAME,
    OUR_NAME,
    Peer,
    Server,
    Setting,
    free_port,
    running,
    tokenyard,
    transformers_serve,
)
from prompts import make_prompt
from sse_client import Load, Measured
from sse_reader import Record
from tables import LEVEL_HEAD, STALL_HEAD, TARGET_HEAD, level_cells, markdown, stall_cells, target_cells
from targets import SERVE_MODEL, SERVE_PROMPT_TOKENS, Target, serve_targets
from tokenizers import Tokenizer

OURS, DEFAULT, BATCHING = "ours", "transformers", "transformers-cb"
NUM_RUNNING = 4
"""Streams that run when the long prompt comes."""
INTRUDE_AFTER = 16
"""Events of the first stream before it comes: by then all that can run at once do."""
WARM_UP_SEED, LEVEL_SEED, STALL_SEED = 10_000_000, 20_000_000, 30_000_000
"""Far apart, so that no prompt comes twice."""


class Shape(NamedTuple):
    """How much is measured."""

    prompt_tokens: int
    output_tokens: int
    concurrencies: list[int]
    per_stream: int
    """Requests of each stream in a round."""
    rounds: int
    long_prompt_tokens: int
    running_tokens: int
    """Output of each stream that the long prompt disturbs: enough to outlive its prefill."""


FULL = Shape(128, 64, [1, 8, 32], 3, 3, 1800, 192)
TARGETED = FULL._replace(prompt_tokens=SERVE_PROMPT_TOKENS, per_stream=1)
"""The peer takes minutes for three requests a stream of that model, and the targets were set on one."""
QUICK = Shape(32, 16, [1, 4], 3, 1, 256, 64)
MIN_REQUESTS = 8
"""Of a round: fewer say nothing of one stream."""
NUM_WARM_UP_TOKENS = 8
"""Output of each request before a server is measured."""


class Round(NamedTuple):
    """One server at one concurrency once."""

    records: list[Record]
    server_cpu_s: float
    client_cpu_s: float
    wall_s: float


class Results(NamedTuple):
    """What one run found."""

    conditions: dict[str, str]
    shape: Shape
    levels: list[Level]
    stalls: list[Stall]
    memory_mib: dict[str, float]
    targets: list[Target]

    def as_dict(self) -> dict[str, Any]:
        named: dict[str, list[Any]] = {"levels": self.levels, "stalls": self.stalls, "targets": self.targets}
        rows = {name: [row._asdict() for row in some] for name, some in named.items()}
        facts = {"conditions": self.conditions, "shape": self.shape._asdict()}
        return {**facts, **rows, "memory_mib": self.memory_mib}


class Bench:
    """Measures one running server."""

    def __init__(self, server: Server, shape: Shape, count: Callable[[str], int]) -> None:
        self._server = server
        self._shape = shape
        self._count = count

    def _bodies(self, seed: int, how_many: int, prompt_tokens: int, output_tokens: int) -> list[dict[str, Any]]:
        prompts = [make_prompt(seed + index, prompt_tokens, self._count) for index in range(how_many)]
        return [self._server.body(prompt, output_tokens) for prompt in prompts]

    def _run(self, bodies: list[dict[str, Any]], concurrency: int, *intrusion: Any) -> Measured:
        load = Load("127.0.0.1", self._server.port, "/v1/completions", bodies, concurrency, *intrusion)
        client = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("sse_client.py"))],
            input=json.dumps(load),
            capture_output=True,
            text=True,
            check=False,
        )
        if client.returncode != 0:
            raise RuntimeError(f"the load failed:\n{client.stderr[-3000:]}\n{self._server.log_tail()}")
        records, intruder, cpu_s, wall_s = json.loads(client.stdout)
        return Measured([Record(*record) for record in records], Record(*intruder) if intruder else None, cpu_s, wall_s)

    def warm_up(self) -> None:
        """Alone, at full width, and once with a long prompt, so that all that is made at first use is made."""
        shape = self._shape
        widest = max(shape.concurrencies)
        for concurrency, prompt_tokens in (
            (1, shape.prompt_tokens),
            (widest, shape.prompt_tokens),
            (1, shape.long_prompt_tokens),
        ):
            seed = WARM_UP_SEED + 1_000 * concurrency + prompt_tokens
            self._run(self._bodies(seed, concurrency, prompt_tokens, NUM_WARM_UP_TOKENS), concurrency)

    def level(self, concurrency: int, number: int) -> Round:
        """The round of that number."""
        how_many = max(MIN_REQUESTS, self._shape.per_stream * concurrency)
        seed = LEVEL_SEED + 100_000 * concurrency + 1_000 * number
        bodies = self._bodies(seed, how_many, self._shape.prompt_tokens, self._shape.output_tokens)
        before_s = self._server.cpu_s()
        measured = self._run(bodies, concurrency)
        return Round(measured.records, self._server.cpu_s() - before_s, measured.cpu_s, measured.wall_s)

    def stall(self, number: int) -> Stall:
        """A long prompt comes while streams run."""
        seed = STALL_SEED + 1_000 * number
        bodies = self._bodies(seed, NUM_RUNNING, self._shape.prompt_tokens, self._shape.running_tokens)
        [long_one] = self._bodies(seed + NUM_RUNNING, 1, self._shape.long_prompt_tokens, 8)
        measured = self._run(bodies, NUM_RUNNING, long_one, INTRUDE_AFTER)
        assert measured.intruder is not None
        return read_stall(self._server.peer.name, measured.records, measured.intruder)


class Tally:
    """The rounds of all servers."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, int], list[Round]] = {}
        self._stalls: dict[str, list[Stall]] = {}
        self.memory_mib: dict[str, float] = {}

    def measure(self, bench: Bench, server: Server, shape: Shape, number: int) -> None:
        """One round of one server; progress goes to stderr."""
        name = server.peer.name
        typer.echo(f"{name}: ready, warming up for round {number + 1}", err=True)
        bench.warm_up()
        for concurrency in shape.concurrencies:
            one = bench.level(concurrency, number)
            typer.echo(f"{name}: c = {concurrency}, {throughput(one.records):.0f} tokens/s", err=True)
            self._rounds.setdefault((name, concurrency), []).append(one)
        self._stalls.setdefault(name, []).append(bench.stall(number))
        self.memory_mib[name] = server.memory_mib()

    def levels(self) -> list[Level]:
        return [
            summarize(
                name,
                concurrency,
                [one.records for one in rounds],
                server_cpu_s=sum(one.server_cpu_s for one in rounds),
                client_cpu_share=sum(one.client_cpu_s for one in rounds) / sum(one.wall_s for one in rounds),
            )
            for (name, concurrency), rounds in self._rounds.items()
        ]

    def stalls(self) -> list[Stall]:
        return [median_stall(stalls) for stalls in self._stalls.values()]


def pick(which: str, setting: Setting, port: int, our_args: str, peer_args: str) -> Peer:
    """The server of that word in `--servers`."""
    if which == OURS:
        return tokenyard(setting, port, our_args)
    if which not in (DEFAULT, BATCHING):
        raise typer.BadParameter(f"--servers: {which!r} is none of {OURS}, {DEFAULT}, {BATCHING}")
    return transformers_serve(setting, port, batching=which == BATCHING, more=peer_args)


def token_counter(model: str) -> Callable[[str], int]:
    """How many tokens a prompt has, as both servers count them."""
    file = Path(model) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_pretrained(model)
    return lambda text: len(tokenizer.encode(text))


def conditions(model: str, setting: Setting, shape: Shape) -> dict[str, str]:
    """What must stand beside the numbers."""
    return {
        "date": today(),
        "machine": machine(setting.device),
        "load average at the end": load_average(),
        "model": "the bundled demo model" if model == "demo" else model,
        "dtype and device": f"{setting.dtype} on {setting.device}, {setting.threads} engine thread(s)",
        "lengths": f"{shape.prompt_tokens} prompt tokens, {shape.output_tokens} output tokens, greedy, no early end",
        "rounds": f"{shape.rounds}, each through all servers; tokens/s is their median",
        "versions": versions(),
        "client": "one process on the same machine, /v1/completions, streaming",
    }


def main(
    model: Annotated[str, typer.Option(help="demo, qwen3-60m, a local directory or a Hub name.")] = "demo",
    servers: Annotated[str, typer.Option(help="Which to measure, with commas.")] = f"{OURS},{DEFAULT},{BATCHING}",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each server's engine.")] = 1,
    prompt_tokens: Annotated[int | None, typer.Option(min=2, help="Of each prompt.")] = None,
    output_tokens: Annotated[int | None, typer.Option(min=2, help="Of each answer.")] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Streams at once, with commas.", show_default="1,8,32")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Repetitions of each level.")] = None,
    our_args: Annotated[str, typer.Option(help="More options for tokenyard serve.")] = "",
    peer_args: Annotated[str, typer.Option(help="More options for transformers serve.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Tiny numbers, to see that it works.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write all figures there as JSON.")] = None,
) -> None:
    """Measure the servers one after the other, round by round, and print their tables as Markdown."""
    base = QUICK if quick else TARGETED if model == SERVE_MODEL else FULL
    shape = base._replace(
        prompt_tokens=prompt_tokens or base.prompt_tokens,
        output_tokens=output_tokens or base.output_tokens,
        concurrencies=[int(part) for part in concurrency.split(",")] if concurrency else base.concurrencies,
        rounds=rounds or base.rounds,
    )
    setting = Setting(find_model(model, device), device, dtype, threads)
    count = token_counter(setting.model)
    tally = Tally()
    for number in range(shape.rounds):
        for which in servers.split(","):
            port = free_port()
            with running(pick(which, setting, port, our_args, peer_args), setting, port) as server:
                tally.measure(Bench(server, shape, count), server, shape, number)
    levels, stalls = tally.levels(), tally.stalls()
    judged = model == SERVE_MODEL and device == "cpu" and not quick
    targets = serve_targets(levels, stalls, OUR_NAME, DEFAULT_NAME, BATCHING_NAME) if judged else []
    results = Results(conditions(model, setting, shape), shape, levels, stalls, tally.memory_mib, targets)
    typer.echo(report(results))
    if out is not None:
        out.write_text(json.dumps({"arguments": sys.argv[1:], **results.as_dict()}, indent=1) + "\n")


def report(results: Results) -> str:
    """Conditions and all tables, as Markdown."""
    memory = "; ".join(f"{name} {value:,.0f} MiB" for name, value in results.memory_mib.items())
    facts, shape = {**results.conditions, "memory at the end": memory}, results.shape
    parts = [
        *(f"- {name}: {value}" for name, value in facts.items()),
        f"\nClosed loop, c streams at once, {shape.per_stream} request(s) a stream in a round:\n",
        markdown(LEVEL_HEAD, level_cells(results.levels, OUR_NAME)),
        f"\nA prompt of {shape.long_prompt_tokens:,} tokens arrives while {NUM_RUNNING} streams run:\n",
        markdown(STALL_HEAD, stall_cells(results.stalls, OUR_NAME)),
    ]
    if results.targets:
        parts += ["\nTargets:\n", markdown(TARGET_HEAD, target_cells(results.targets))]
    return "\n".join(parts)


if __name__ == "__main__":
    typer.run(main)
