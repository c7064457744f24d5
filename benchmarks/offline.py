"""Many requests at once, no HTTP: our engine and transformers' batching in turn, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

import typer
from engine_rig import Place
from offline_run import Ask, Errand, Outcome

PEER_MEMORY = {"cpu": 0.2, "cuda": 0.9}
"""Share of free memory for transformers' KV cache. CUDA: its own default; CPU: what these loads need several times
over, as its default would take a shared machine's memory."""


class Rates(NamedTuple):
    """One engine on one set of requests; the medians of the rounds."""

    engine: str
    tokens_per_s: float
    """Output tokens over the time from the first request to the last token."""
    tokens_per_s_range: tuple[float, float]
    gap_ms: float | None
    """Median time between two tokens of a stream while all of them decode; None if they never all did."""


def uneven(num_requests: int, low: int, high: int, seed: int = 0) -> list[Ask]:
    """Lengths of prompt and output, each uniform in [low, high]."""
    random = Random(seed)
    return [Ask(random.randint(low, high), random.randint(low, high)) for _ in range(num_requests)]


def compare(who: Sequence[str], place: Place, asks: list[Ask], rounds: int) -> list[Rates]:
    """Every engine in every round."""
    outcomes: dict[str, list[Outcome]] = {one: [] for one in who}
    for _ in range(rounds):
        for one in who:
            outcomes[one].append(run(Errand(one, place, asks, PEER_MEMORY[place.device.partition(":")[0]])))
            rate = throughput(outcomes[one][-1])
            typer.echo(f"{one}: {len(asks)} requests at once, {rate:.0f} tokens/s", err=True)
    return [fold(one, rows) for one, rows in outcomes.items()]


def run(errand: Errand) -> Outcome:
    """Raises RuntimeError with the process's last words if it fails."""
    command = [sys.executable, str(Path(__file__).with_name("offline_run.py"))]
    done = subprocess.run(command, input=json.dumps(errand), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{errand.who} failed:\n{done.stderr[-3000:]}")
    return Outcome(*json.loads(done.stdout.strip().splitlines()[-1]))


def fold(engine: str, outcomes: Sequence[Outcome]) -> Rates:
    rates = [throughput(outcome) for outcome in outcomes]
    gaps = [gap for outcome in outcomes for gap in steady_gaps_ms(outcome)]
    return Rates(engine, median(rates), (min(rates), max(rates)), median(gaps) if gaps else None)


def throughput(outcome: Outcome) -> float:
    return sum(map(len, outcome.times_s)) / max(row[-1] for row in outcome.times_s)


def steady_gaps_ms(outcome: Outcome) -> Iterable[float]:
    """Gaps of all streams from when the last has begun until the first ends."""
    start_s = max(row[0] for row in outcome.times_s)
    end_s = min(row[-1] for row in outcome.times_s)
    for row in outcome.times_s:
        for before_s, after_s in pairwise(row):
            if start_s <= before_s and after_s <= end_s:
                yield (after_s - before_s) * 1e3
