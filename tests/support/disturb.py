"""Sizes of the fault tests, and how faults are repeated."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import psutil
import pytest


class Size(NamedTuple):
    """How much of a fault one test takes."""

    num_requests: int
    num_faults: int


QUICK = Size(48, 2)
"""In the test suite: all quick fault tests together take a minute on two cores."""
WHOLE = Size(400, 10)
"""scripts/faults.sh: what the issue asks."""
quick_and_whole = pytest.mark.parametrize(
    "size",
    [pytest.param(QUICK, id="quick"), pytest.param(WHOLE, id="whole", marks=pytest.mark.faults)],
)
whole = pytest.mark.parametrize("size", [pytest.param(WHOLE, id="whole", marks=pytest.mark.faults)])
SETTLE_S = 0.5
"""What a fault may add to its own length in a stream, beside what the machine adds without it."""


async def repeat(count: int, interval_s: float, fault: Callable[[], object]) -> None:
    """So many times, so far apart; in this thread, since a process that it starts is tied to the thread's life."""
    for _ in range(count):
        fault()
        await asyncio.sleep(interval_s)


async def stop(pid: int, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after so long."""
    process = psutil.Process(pid)
    process.suspend()
    try:
        await asyncio.sleep(seconds)
    finally:
        process.resume()


async def stop_each(pids: Callable[[int], int], count: int, seconds: float, rest_s: float = 0.7) -> None:
    """One process after another; `pids` names the victim of each turn."""
    for turn in range(count):
        await stop(pids(turn), seconds)
        await asyncio.sleep(rest_s)
