"""What the way from a worker's step to the client costs: 1,000 streams through one front, beside a plain FastAPI front.

    python benchmarks/relay_bench.py                        everything, some three minutes
    python benchmarks/relay_bench.py --docs docs/performance.md      and put the tables there
    python benchmarks/relay_bench.py --quick                tiny numbers, to see that it works

Every process is a real one but for the engine (relay_worker.py), which says known tokens at a given pace, and every
answer is checked whole. A front's cost is its CPU time, so that other work on the machine disturbs it least; times of
waiting mean something on a quiet machine only.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from machine import load_average, machine, today, versions
from relay_scenes import Played, Scene, play
from tables import TARGET_HEAD, Cells, markdown, number, target_cells
from targets import Target, at_least, at_most

ONE, ONE_PLAIN, COMPLETIONS = "one", "one-plain", "completions"
BEHIND, BEHIND_PLAIN, SEVERAL, FRONTS = "behind", "behind-plain", "several", "fronts"
FEW, LAGGING, DISPATCH, KILL_FEW, KILL_MANY = "few", "lagging", "dispatch", "kill-few", "kill-many"

PLAIN = Scene(front="plain")
FLOOD = 250.0
"""Tokens a second that each of 1,000 streams is asked for where a front is to be behind: more than any front relays."""
SCENES = {
    ONE: Scene(),
    ONE_PLAIN: PLAIN,
    COMPLETIONS: Scene(path="/v1/completions"),
    BEHIND: Scene(rate=FLOOD, num_tokens=1000),
    BEHIND_PLAIN: PLAIN._replace(rate=FLOOD, num_tokens=400),
    SEVERAL: Scene(rate=160, per_delta=4, num_tokens=800),
    FRONTS: Scene(rate=FLOOD, num_tokens=1000, num_fronts=2),
    FEW: Scene(num_streams=8, num_workers=1),
    LAGGING: Scene(num_lagging=100),
    DISPATCH: Scene(num_streams=500, num_workers=1, num_tokens=1, at_once=1, waits=False),
    KILL_FEW: Scene(num_streams=32, num_workers=2, num_tokens=160, kill_after_s=2),
    KILL_MANY: Scene(num_workers=2, num_tokens=160, kill_after_s=2),
}
QUICK_STREAMS, QUICK_TOKENS = 40, 60
RATES = {
    ONE: "one token a delta, as fast as asked",
    ONE_PLAIN: "the same, plain front",
    COMPLETIONS: "the same, /v1/completions",
    BEHIND: "one token a delta, more than it can relay",
    BEHIND_PLAIN: "the same, plain front",
    SEVERAL: "four tokens a delta, as fast as asked",
    FRONTS: "more than they can relay, two fronts on one port",
}
RATE_HEAD = ["tokens come", "asked", "tokens/s", "tokens/s per front core", "cores", "tokens a write", "streams whole"]
WAIT_HEAD = ["way", "load", "p50", "p99", "longest"]
GAP_HEAD = ["load", "streams whole", "longest gap of any stream"]
BEGIN, END = "<!-- relay_bench.py writes from here -->", "<!-- to here -->"


def quick(scene: Scene) -> Scene:
    """The same with little of everything."""
    return scene._replace(
        num_streams=min(QUICK_STREAMS, scene.num_streams),
        num_tokens=min(QUICK_TOKENS, scene.num_tokens),
        num_workers=min(2, scene.num_workers),
        num_lagging=scene.num_lagging * min(QUICK_STREAMS, scene.num_streams) // scene.num_streams,
        kill_after_s=min(0.5, scene.kill_after_s),
    )


def load(one: Played) -> str:
    lagging = f", {one.scene.num_lagging:,} of them not read" if one.scene.num_lagging else ""
    return f"{one.scene.num_streams:,} streams × {one.scene.rate:g} tokens/s{lagging}"


def rate_cells(played: dict[str, Played]) -> Cells:
    cells: Cells = []
    for name, words in RATES.items():
        if one := played.get(name):
            scene, tally = one.scene, one.tally
            rates = (scene.num_streams * scene.rate, one.tokens_per_s, one.tokens_per_core_s)
            cells.append(
                [
                    words,
                    *(f"{rate:,.0f}" for rate in rates),
                    number(one.cores),
                    number(tally.num_tokens / max(1, tally.num_writes)),
                    f"{tally.num_right:,} of {scene.num_streams:,}",
                ]
            )
    return cells


def wait_cells(played: dict[str, Played]) -> Cells:
    cells: Cells = []

    def add(name: str, words: str, where: Callable[[Played], tuple[str, Sequence[float], str]]) -> None:
        if name in played:
            under, waits, unit = where(played[name])
            cells.append([words, under, *(f"{number(wait)} {unit}" for wait in waits)])

    for name in (FEW, ONE):
        add(name, "worker's step → front's inbox", lambda one: (load(one), one.hop_us, "µs"))
        add(name, "… → last token of the step written", lambda one: (load(one), one.write_us, "µs"))
        add(name, "… → read by the client", lambda one: (load(one), one.read_us, "µs"))
    for name, words in ((FEW, ""), (ONE, ""), (LAGGING, ""), (ONE_PLAIN, ", plain front")):
        add(name, f"worker's step → client{words}", lambda one: (load(one), one.tally.latencies_ms, "ms"))
    words = "submit in the front → worker's engine"
    add(DISPATCH, words, lambda one: ("one request after the other", one.dispatch_us, "µs"))
    return cells


def gap_cells(played: dict[str, Played]) -> Cells:
    cells: Cells = []
    for one in (played[name] for name in (KILL_FEW, KILL_MANY) if name in played):
        whole = f"{one.tally.num_right:,} of {one.scene.num_streams:,}"
        gap = f"{number(1000 * one.tally.longest_gap_s)} ms"
        cells.append([f"{load(one)} on {one.scene.num_workers} workers", whole, gap])
    return cells


def relay_targets(played: dict[str, Played]) -> list[Target]:
    """Issue 6's, as far as they were measured."""
    targets: list[Target] = []
    if one := played.get(ONE):
        p50_ms, p99_ms, _ = one.tally.latencies_ms
        targets += [
            at_least("one token a write: tokens/s per front core", 50_000, one.tokens_per_core_s, ""),
            at_most("1,000 streams × 40 tokens/s: cores", 0.9, one.cores, ""),
            at_most("worker → client, 1,000 streams × 40 tokens/s, p50", 5, p50_ms, " ms"),
            at_most("worker → client, 1,000 streams × 40 tokens/s, p99", 25, p99_ms, " ms"),
        ]
    if one := played.get(BEHIND):
        targets.append(at_least("several deltas a write: tokens/s per front core", 120_000, one.tokens_per_core_s, ""))
    if one := played.get(FEW):
        p50_us, p99_us, _ = one.hop_us
        targets += [
            at_most("worker → front, few streams, p50", 100, p50_us, " µs"),
            at_most("worker → front, few streams, p99", 300, p99_us, " µs"),
        ]
    if one := played.get(DISPATCH):
        targets.append(at_most("dispatch, p50", 300, one.dispatch_us[0], " µs"))
    for name in (KILL_FEW, KILL_MANY):
        if one := played.get(name):
            what = f"gap at a worker's kill beside its prefill, {one.scene.num_streams:,} streams"
            targets.append(at_most(what, 50, 1000 * one.tally.longest_gap_s, " ms"))
    return targets


def report(played: dict[str, Played], targets: Sequence[Target]) -> str:
    """All that was found, as Markdown."""
    parts = [f"{today()}, {machine('cpu')}, load average at the end {load_average()}, {versions()}"]
    num_streams = max(one.scene.num_streams for one in played.values())
    if cells := rate_cells(played):
        parts += [f"\nTokens through a front, {num_streams:,} streams:\n", markdown(RATE_HEAD, cells)]
    if one := played.get(ONE):
        kilobytes = number(one.stream_bytes / 1024)
        parts.append(
            f"\nA stream takes {kilobytes} kB of a front's memory, of {one.scene.num_streams:,} that are open."
        )
        cores = ", ".join(f"{kind} {number(cpu_s / one.tally.wall_s)}" for kind, cpu_s in one.cpu_s.items())
        parts.append(f"\nCores that {load(one)} take: {cores}.")
    if cells := wait_cells(played):
        parts += ["\nWaits:\n", markdown(WAIT_HEAD, cells)]
    if cells := gap_cells(played):
        parts += ["\nA worker is killed with SIGKILL; prefills take no time here:\n", markdown(GAP_HEAD, cells)]
    if targets:
        parts += ["\nTargets:\n", markdown(TARGET_HEAD, target_cells(targets))]
    return "\n".join(parts)


def put(report: str, path: Path) -> None:
    """Between the marks of a document, in place of what is there. Raises ValueError where it has none."""
    text = path.read_text()
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise ValueError(f"{path} has no marks {BEGIN} and {END}")
    head, _, rest = text.partition(BEGIN)
    path.write_text(f"{head}{BEGIN}\n\n{report}\n\n{END}{rest.partition(END)[2]}")


def as_dict(one: Played) -> dict[str, Any]:
    return {**one._asdict(), "scene": one.scene._asdict(), "tally": one.tally._asdict()}


def main(
    scenes: Annotated[str, typer.Option(help="Which to play, with commas.")] = ",".join(SCENES),
    quick_: Annotated[bool, typer.Option("--quick", help="Tiny numbers, to see that it works.")] = False,
    docs: Annotated[Path | None, typer.Option(help="Put the tables there, between their marks.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write all figures there as JSON.")] = None,
) -> None:
    """Play each scene once and print the tables as Markdown. Exits with status 1 if any stream was not whole."""
    played: dict[str, Played] = {}
    for name in scenes.split(","):
        if name not in SCENES:
            raise typer.BadParameter(f"--scenes: {name!r} is none of {', '.join(SCENES)}")
        typer.echo(f"{name} ...", err=True)
        played[name] = play(quick(SCENES[name]) if quick_ else SCENES[name])
    told = report(played, [] if quick_ else relay_targets(played))
    typer.echo(told)
    if docs is not None:
        put(told, docs)
    if out is not None:
        figures = {name: as_dict(one) for name, one in played.items()}
        out.write_text(json.dumps({"arguments": sys.argv[1:], "scenes": figures}, indent=1) + "\n")
    for name, one in played.items():
        for words in one.tally.faults:
            typer.echo(f"{name}: {words}", err=True)
    raise typer.Exit(any(one.tally.faults for one in played.values()))


if __name__ == "__main__":
    typer.run(main)
