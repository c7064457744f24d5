"""One of two fronts dies: its jobs are freed, and the other's streams do not notice."""

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest
from disturb import SETTLE_S
from served import Served
from traffic import Ask, Counts, Judge, Outcome, asks, stream_ask
from yard import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

NUM_STREAMS = 16
LENGTH = 400
FREED_S = 2.0
"""A dead front's jobs are gone from workers and broker by then (issue 6)."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Served]:
    served = Served("--workers", "1", "--fronts", "2")
    try:
        yield served.wait_ready()
    finally:
        served.close()


def long_asks() -> list[Ask]:
    return [ask._replace(count=LENGTH) for ask in asks(NUM_STREAMS)]


async def stream_all(pool: Served, disturb: Callable[[], object] | None = None) -> list[Outcome]:
    """All streams at once; `disturb` runs in a thread once all of them run."""
    begun: set[int] = set()

    async with httpx.AsyncClient(base_url=pool.url, timeout=60) as client:
        tasks = [
            asyncio.create_task(stream_ask(client, ask, lambda index=index: begun.add(index)))  # type: ignore[misc]
            for index, ask in enumerate(long_asks())
        ]
        if disturb:
            while len(begun) < NUM_STREAMS:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(disturb)
        return await asyncio.gather(*tasks)


def test_a_killed_front_takes_only_its_own_streams_along(pool: Served, record: Callable[[str, Counts], None]) -> None:
    judge = Judge(asyncio.run(stream_all(pool)))
    left: list[int] = []

    def kill_one() -> None:
        pool.children("front")[0].kill()

        def is_freed() -> bool:
            worker = pool.status()["workers"][0]
            left[:] = [worker["running"]]
            return worker["running"] == worker["load"]["running"] < NUM_STREAMS

        wait_until(is_freed, "the dead front's jobs to be freed", FREED_S)

    outcomes = asyncio.run(stream_all(pool, kill_one))
    whole = [outcome for outcome in outcomes if not outcome.error]
    assert left == [len(whole)]
    assert 0 < len(whole) < NUM_STREAMS, "both fronts had streams"
    counts = judge.count(whole)
    record("one of two fronts: kill -9 (the other's streams)", counts)
    counts.check(judge.undisturbed.stall_s + SETTLE_S)
    assert httpx.get(f"{pool.url}/health", timeout=30).status_code == 200
