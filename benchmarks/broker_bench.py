"""What the broker's core costs as a pool grows: each job, each beat, each death, and a front's joining.

    python benchmarks/broker_bench.py      1 to 10,000 workers, beside a broker that looks at all of them for each job

The core is driven directly (broker_sim.py): no sockets, no frames. CPU time of one core.
"""

import gc
import time
from collections import deque
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Annotated, NamedTuple

import typer
from broker_sim import (
    IN_FLIGHT,
    JOBS_PER_DEATH,
    MODELS,
    NUM_FRONTS,
    NUM_GROUPS,
    OWN_KEYS,
    SHARED_KEYS,
    Broker,
    Event,
    World,
)
from machine import load_average, machine, today, versions
from tables import TARGET_HEAD, Cells, markdown, number, ratio, target_cells
from targets import at_most

from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import BEAT_S, SILENCE_S
from tokenyard.broker.core import Core
from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import (
    PROTOCOL,
    Accepted,
    Beat,
    Done,
    FrontHello,
    Lost,
    Message,
    Placed,
    Start,
    Status,
    Submit,
    WorkerDown,
    WorkerHello,
    WorkerJob,
)

SIZES = "1,10,100,1000,10000"
TARGET = 1.2
"""Cost per job at the largest pool over that at the smallest (issue 6)."""
WARM_UP_JOBS = 120_000
"""So many prompts fill what the broker remembers of them, in three models and four of 12 blocks each."""
SLICES = 50
"""Of a run; its figures are those that a quarter of the slices keep below: what the core costs, not its neighbours."""
PLAIN_JOBS = 2_000
"""Enough for the plain broker, which takes milliseconds a job at 10,000 workers."""
WORDS = f"""{{jobs:,}} jobs in each pool, {IN_FLIGHT} of a worker at a time, and a death every {JOBS_PER_DEATH:,};
{NUM_FRONTS} fronts and {len(MODELS)} models;
prompts of {SHARED_KEYS + OWN_KEYS} blocks, {SHARED_KEYS} of which are those of one of {NUM_GROUPS} groups.
CPU time, without the garbage collector, as in the broker's process; of {SLICES} slices the lower quartile, in the
calmest of {{rounds}} rounds.
"""
WHAT = "a job's cost in the largest pool over that in the smallest"
JOB_HEAD = ["workers", "a job", "over the smallest", "a job, plain", "over the smallest, plain"]
BEAT_HEAD = ["workers", "a beat", "its decoding", "ticks, a worker and second", "all of them", "of one core",
             "a worker's hello", "a death", "a death, plain"]  # fmt: skip
TELLING_HEAD = ["workers", "request", "core", "encoding", "frames", "largest"]


class PlainBroker:
    """The obvious one: for each job, look at all workers and take the least loaded."""

    def __init__(self) -> None:
        self._fronts: dict[bytes, bytes] = {}
        self._workers: dict[bytes, WorkerHello] = {}
        self._jobs: dict[bytes, set[WorkerJob]] = {}
        self._heard: dict[bytes, float] = {}
        self._queue: deque[tuple[bytes, Submit]] = deque()

    def handle(self, peer: bytes, message: Message, now: float) -> list[Event]:
        self._heard[peer] = now
        match message:
            case FrontHello(_, inc):
                self._fronts[peer] = inc
            case WorkerHello():
                self._workers[peer], self._jobs[peer] = message, set()
                return self._run_queue()
            case Submit():
                return self._place(peer, message) or self._wait(peer, message)
            case Done(front, job, attempt):
                self._jobs[peer].discard(WorkerJob(front, job, attempt))
                return self._run_queue()
            case Beat():
                self._jobs[peer] &= set(message.jobs)
        return []

    def gone(self, peer: bytes, now: float) -> list[Event]:
        inc = self._workers.pop(peer).inc
        told: list[Event] = [(front, WorkerDown(inc)) for front in self._fronts]
        return told + [(job.front, Lost(job.job, job.attempt, 0)) for job in self._jobs.pop(peer)]

    def tick(self, now: float) -> list[Event]:
        silent = [peer for peer in self._workers if now - self._heard[peer] > SILENCE_S]
        return [event for peer in silent for event in self.gone(peer, now)]

    def _place(self, peer: bytes, submit: Submit) -> list[Event]:
        able = (
            (len(self._jobs[one]) / worker.capacity, one)
            for one, worker in self._workers.items()
            if worker.card and submit.model in worker.card.names and len(self._jobs[one]) < worker.capacity
        )
        _, worker = min(able, default=(0, b""))
        if not worker:
            return []
        key = WorkerJob(self._fronts[peer], submit.job, submit.attempt)
        self._jobs[worker].add(key)
        start = Start(*key, submit.kind, submit.prompt_ids, submit.emitted_ids, submit.params)
        return [(worker, start), (peer, Placed(key.job, key.attempt, worker))]

    def _wait(self, peer: bytes, submit: Submit) -> list[Event]:
        self._queue.append((peer, submit))
        return [(peer, Accepted(submit.job, submit.attempt))]

    def _run_queue(self) -> list[Event]:
        told: list[Event] = []
        while self._queue and (placed := self._place(*self._queue[0])):
            self._queue.popleft()
            told += placed
        return told


class Row(NamedTuple):
    """Of one size; means, in µs of CPU."""

    num_workers: int
    job: float
    """From its Submit to its Done, and what lost ones cost again."""
    beat: float
    decode: float
    """Of a beat's frame."""
    tick: float
    """Of all looks at the time, by worker and second."""
    death: float
    hello: float
    """A worker's."""


class Telling(NamedTuple):
    """What one peer gets that wants to know of all workers."""

    core_ms: float
    encode_ms: float
    num_frames: int
    largest_bytes: int


def measure(broker: Broker, num_workers: int, num_jobs: int, num_before: int) -> Row:
    """Fill a pool of that size and run so many jobs through it."""
    world = World(broker, num_workers, time.thread_time_ns)
    hello = world.spent["birth"] / world.count["birth"]
    world.run(max(0, num_before - num_workers * IN_FLIGHT))
    look = median(-(time.thread_time_ns() - time.thread_time_ns()) for _ in range(1000))
    slices: list[tuple[float, float, float]] = []
    death = 0.0
    for _ in range(SLICES):
        for counter in (world.spent, world.count, world.looks):
            counter.clear()
        began_s = world.now
        world.run(num_jobs // SLICES)
        spent = {kind: (world.spent[kind] - look * world.looks[kind]) / 1000 for kind in world.spent}
        death += spent.get("death", 0.0)
        job = (spent["submit"] + spent["done"]) / world.count["done"]
        tick = spent["tick"] / ((world.now - began_s) * num_workers)
        slices.append((job, spent["beat"] / max(1, world.count["beat"]), tick))
    job, beat, tick = (quantiles(column, n=4)[0] for column in zip(*slices, strict=True))
    frame = encode(world.last_beat)
    began = time.thread_time_ns()
    for _ in range(1000):
        decode(frame)
    decoding = (time.thread_time_ns() - began) / 1e6
    return Row(num_workers, job, beat, decoding, tick, death / max(1, num_jobs // JOBS_PER_DEATH), hello / 1000)


def telling(core: Core, question: Message, now: float) -> Telling:
    began = time.thread_time_ns()
    answers = core.handle(b"newcomer", question, now)
    answered = time.thread_time_ns()
    sizes = [len(encode(message)) for _, message in answers]
    ended = time.thread_time_ns()
    return Telling((answered - began) / 1e6, (ended - answered) / 1e6, len(sizes), max(sizes))


def run(size: int, num_jobs: int, rounds: int, num_before: int) -> tuple[Row, Row, Telling, Telling]:
    """Ours, the plain broker's, what a front's joining and a Status cost; of the round with the cheapest job."""
    ours: list[tuple[Row, Telling, Telling]] = []
    plain: list[Row] = []
    for _ in range(rounds):
        gc.collect()
        core = Core(b"a broker", 0.0)
        row = measure(core, size, num_jobs, num_before)
        now, newcomer = core.next_tick_s, Identity.of(b"newcomer")
        joining = telling(core, FrontHello(PROTOCOL, newcomer.inc, 1, [], newcomer.secret), now)
        ours.append((row, joining, telling(core, Status(1), now)))
        plain.append(measure(PlainBroker(), size, min(num_jobs, PLAIN_JOBS), 0))
    row, joining, status = min(ours, key=lambda one: one[0].job)
    return row, min(plain, key=lambda one: one.job), joining, status


def job_cells(ours: Sequence[Row], plain: Sequence[Row]) -> Cells:
    return [
        [
            f"{mine.num_workers:,}",
            f"{number(mine.job)} µs",
            ratio(mine.job, ours[0].job),
            f"{number(theirs.job)} µs",
            ratio(theirs.job, plain[0].job),
        ]
        for mine, theirs in zip(ours, plain, strict=True)
    ]


def beat_cells(ours: Sequence[Row], plain: Sequence[Row]) -> Cells:
    cells: Cells = []
    for mine, theirs in zip(ours, plain, strict=True):
        a_second = (mine.beat + mine.decode) / BEAT_S + mine.tick
        cells.append(
            [
                f"{mine.num_workers:,}",
                *(f"{number(one)} µs" for one in (mine.beat, mine.decode, mine.tick, a_second)),
                f"{a_second * mine.num_workers / 1e6:.1%}",
                *(f"{number(one)} µs" for one in (mine.hello, mine.death, theirs.death)),
            ]
        )
    return cells


def telling_cells(sizes: Sequence[int], joining: Sequence[Telling], statuses: Sequence[Telling]) -> Cells:
    return [
        [
            f"{size:,}",
            what,
            f"{number(told.core_ms)} ms",
            f"{number(told.encode_ms)} ms",
            f"{told.num_frames:,}",
            f"{told.largest_bytes / 1000:,.0f} kB",
        ]
        for what, tellings in (("a front joins", joining), ("status", statuses))
        for size, told in zip(sizes, tellings, strict=True)
    ]


def main(
    sizes: Annotated[str, typer.Option(help="Workers, by commas.")] = SIZES,
    jobs: Annotated[int, typer.Option(help="That end in each pool.")] = 100_000,
    before: Annotated[int, typer.Option(help="That end in each pool before it is measured.")] = WARM_UP_JOBS,
    rounds: Annotated[int, typer.Option(help="The one with the cheapest job counts: others may use the cores.")] = 3,
) -> None:
    """Print the tables."""
    gc.disable()
    counts = [int(size) for size in sizes.split(",")]
    ours, plain, joining, statuses = zip(*(run(count, jobs, rounds, before) for count in counts), strict=True)
    typer.echo(f"{today()}, {machine('cpu')}, one of them used, load average {load_average()}, {versions()}\n")
    typer.echo(WORDS.format(jobs=jobs, rounds=rounds))
    typer.echo(markdown(JOB_HEAD, job_cells(ours, plain)) + "\n")
    typer.echo(markdown(BEAT_HEAD, beat_cells(ours, plain)) + "\n")
    typer.echo(markdown(TELLING_HEAD, telling_cells(counts, joining, statuses)) + "\n")
    typer.echo(markdown(TARGET_HEAD, target_cells([at_most(WHAT, TARGET, ours[-1].job / ours[0].job, "×")])))


if __name__ == "__main__":
    typer.run(main)
