"""One of two fronts dies: its jobs are freed, and the other's streams do not notice."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import httpx
import psutil
import pytest
from disturb import SETTLE_S
from served import Served
from traffic import Counts, Judge, Outcome, asks, stream_ask
from yard import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

NUM_EACH = 8
"""Streams of each front."""
ASKS = [ask._replace(count=400) for ask in asks(2 * NUM_EACH)]
FREED_S = 2.0
"""A dead front's jobs are gone from workers and broker by then (issue 6)."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Served]:
    served = Served("--workers", "1", "--fronts", "2")
    try:
        yield served.wait_ready()
    finally:
        served.close()


async def stream_all(pool: Served) -> list[Outcome]:
    async with httpx.AsyncClient(base_url=pool.url, timeout=60) as client:
        return await asyncio.gather(*(stream_ask(client, ask) for ask in ASKS))


async def stream_by_halves(pool: Served, doomed: psutil.Process, other: psutil.Process) -> list[Outcome]:
    """Half of them on each front, as the kernel gives a connection to whoever is awake; then one front is killed."""
    tasks: list[asyncio.Task[Outcome]] = []
    async with httpx.AsyncClient(base_url=pool.url, timeout=60) as client:
        for stopped in (other, doomed):
            begun: set[int] = set()
            stopped.suspend()
            try:
                for index in range(len(tasks), len(tasks) + NUM_EACH):
                    stream = stream_ask(client, ASKS[index], partial(begun.add, index))
                    tasks.append(asyncio.create_task(stream))
                while len(begun) < NUM_EACH:
                    await asyncio.sleep(0.01)
            finally:
                stopped.resume()
        await asyncio.to_thread(kill, pool, doomed)
        return await asyncio.gather(*tasks)


def kill(pool: Served, front: psutil.Process) -> None:
    def is_freed() -> bool:
        worker = pool.status()["workers"][0]
        return bool(worker["running"] == worker["load"]["running"] == NUM_EACH)

    front.kill()
    wait_until(is_freed, "the dead front's jobs, and no others, to be freed", FREED_S)


def test_a_killed_front_takes_only_its_own_streams_along(pool: Served, record: Callable[[str, Counts], None]) -> None:
    judge = Judge(asyncio.run(stream_all(pool)))
    doomed, other = pool.children("front")
    outcomes = asyncio.run(stream_by_halves(pool, doomed, other))
    whole = [outcome for outcome in outcomes if not outcome.error]
    assert whole == outcomes[NUM_EACH:]
    counts = judge.count(whole)
    record("one of two fronts: kill -9 (the other's streams)", counts)
    counts.check(judge.undisturbed.stall_s + SETTLE_S)
    assert httpx.get(f"{pool.url}/health", timeout=30).status_code == 200
