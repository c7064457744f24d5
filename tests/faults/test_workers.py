"""Workers killed under a supervisor that restarts them, and storms of all faults at once."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest
from disturb import SETTLE_S, Size, stop, whole
from served import Served
from traffic import Judge
from yard import wait_until

from tokenyard.broker.errors import SetupError

if TYPE_CHECKING:
    from conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_WORKERS = 2
KILL_S = 1.5
"""Between two kills of the run in which workers die faster than they load."""
REFILL = 3.0
"""A bound on what two quiet cores showed: 1.8 times the undisturbed run's longest first token. The survivor may have to
compute all streams anew, prompts and what they had emitted: 2.6 times what each worker begins that run with."""
STORM_SEED = 6
NUM_STORM = 20


@pytest.fixture
def pool() -> Iterator[Served]:
    served = Served("--workers", str(NUM_WORKERS))
    try:
        yield served.wait_ready()
    finally:
        served.close()


@pytest.fixture
def usual_s(pool: Served, judge: Callable[[str], Judge]) -> float:
    """The longest stall without a fault, and the time that a worker takes to compute the lost streams' tokens anew."""
    undisturbed = judge(pool.url).undisturbed
    return undisturbed.stall_s + REFILL * undisturbed.first_s


def wait_whole(pool: Served, dead: int) -> None:
    """Until all workers are ready, without this one."""
    wait_until(lambda: len(pool.ready_pids() - {dead}) == NUM_WORKERS, "all workers to be ready again")


def kill_in_turn(pool: Served, times: int) -> None:
    """kill -9 of the worker that has lived longest, once the fleet is whole."""
    order = sorted(pool.ready_pids())
    for _ in range(times):
        victim = order.pop(0)
        os.kill(victim, signal.SIGKILL)
        wait_whole(pool, victim)
        order += pool.ready_pids() - set(order)


@whole
def test_workers_killed_in_turn(pool: Served, run: "Run", usual_s: float, size: Size) -> None:
    counts = run(
        f"worker: kill -9, the other next, fleet whole again ×{size.num_faults}",
        pool.url,
        size.num_requests,
        lambda: asyncio.to_thread(kill_in_turn, pool, size.num_faults),
    )
    counts.check(usual_s + SETTLE_S)


@whole
def test_workers_killed_faster_than_they_load(pool: Served, run: "Run", size: Size) -> None:
    """Streams may wait for a worker, loading ones die too; none is lost, and the pool comes back by itself."""

    async def kill_any() -> None:
        for turn in range(size.num_faults):
            if workers := pool.children("worker"):
                workers[turn % len(workers)].kill()
            await asyncio.sleep(KILL_S)

    counts = run(f"worker: kill -9 every {KILL_S} s ×{size.num_faults}", pool.url, size.num_requests, kill_any)
    counts.check(float("inf"))
    wait_whole(pool, 0)


@whole
def test_worker_that_dies_while_loading(pool: Served, run: "Run", usual_s: float, size: Size) -> None:
    def kill_with_successors() -> None:
        victim = psutil.Process(min(pool.ready_pids()))
        for _ in range(3):
            known = {one.pid for one in pool.children("worker")}
            victim.kill()
            fresh: list[psutil.Process] = []

            def came(known: set[int] = known, fresh: list[psutil.Process] = fresh) -> bool:
                fresh[:] = [one for one in pool.children("worker") if one.pid not in known]
                return bool(fresh)

            wait_until(came, "the next worker")
            victim = fresh[0]
        wait_whole(pool, 0)

    counts = run(
        "worker: kill -9, and two successors while they load",
        pool.url,
        size.num_requests // 2,
        lambda: asyncio.to_thread(kill_with_successors),
    )
    counts.check(usual_s + SETTLE_S)


@whole
def test_storm(pool: Served, run: "Run", size: Size) -> None:
    """Kills of workers and broker, stops of workers, broker and front, in an order drawn once."""
    dice = random.Random(STORM_SEED)

    async def storm() -> None:
        for _ in range(NUM_STORM):
            kind = dice.choice(["kill worker", "kill broker", "stop worker", "stop broker", "stop front"])
            how, role = kind.split()
            processes = pool.children(role)
            if processes and how == "kill":
                with suppress(psutil.NoSuchProcess):
                    dice.choice(processes).kill()
            elif processes:
                with suppress(psutil.NoSuchProcess):
                    await stop(dice.choice(processes).pid, dice.choice([0.5, 1.5]))
            await asyncio.sleep(dice.uniform(0.2, 1.5))
        await asyncio.to_thread(wait_until, whole_again, "the pool to be whole again")

    def whole_again() -> bool:
        with suppress(SetupError):
            return len(pool.ready_pids()) == NUM_WORKERS
        return False

    counts = run(f"storm of {NUM_STORM} faults of all kinds", pool.url, size.num_requests, storm)
    counts.check(float("inf"))
