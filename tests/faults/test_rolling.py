"""`tokenyard drain` under load: workers are replaced, and no stream notices."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from disturb import QUICK, SETTLE_S
from served import Served
from traffic import Judge
from yard import wait_until

if TYPE_CHECKING:
    from conftest import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool() -> Iterator[Served]:
    """Of one worker: while it is replaced, nothing else can answer."""
    served = Served("--workers", "1")
    try:
        yield served.wait_ready()
    finally:
        served.close()


def drain(pool: Served, *arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "tokenyard.scripts.cli", "drain", *arguments, "--run-dir", str(pool.run_dir)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


class Replacing:
    """Drains the pool's one worker amid the traffic, and keeps what was said."""

    def __init__(self, pool: Served, *arguments: str) -> None:
        self._pool = pool
        self._arguments = arguments
        (self.old,) = pool.ready_pids()

    async def __call__(self) -> None:
        self.done = await asyncio.to_thread(drain, self._pool, *self._arguments)

    def check(self) -> None:
        """Another worker serves, and the old one is gone."""
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        assert self.done.stdout.endswith("has its place\n")
        (new,) = self._pool.ready_pids()
        assert new != self.old
        assert not psutil.pid_exists(self.old)
        assert "died" not in str(self._pool.status()["agents"][0]["troubles"])


@pytest.mark.faults
def test_streams_move_to_the_successor_at_once(pool: Served, run: "Run", judge: Callable[[str], Judge]) -> None:
    usual = judge(pool.url).undisturbed
    replacing = Replacing(pool, "--all", "--move")
    counts = run("worker: drain --move, the only one", pool.url, QUICK.num_requests, replacing)
    replacing.check()
    counts.check(usual.stall_s + usual.first_s + SETTLE_S)


def test_streams_finish_where_they_are_while_the_successor_takes_the_new(
    pool: Served, run: "Run", judge: Callable[[str], Judge]
) -> None:
    usual = judge(pool.url).undisturbed
    replacing = Replacing(pool, "tokenyard-demo")
    before = num_resumes(pool)
    counts = run("worker: drain, the only one", pool.url, QUICK.num_requests, replacing)
    replacing.check()
    counts.check(usual.stall_s + SETTLE_S)
    assert num_resumes(pool) == before, "no stream had to move"


def test_requests_wait_for_a_successor_that_comes_after(pool: Served, run: "Run") -> None:
    """Without a worker its model is still known: they queue."""
    replacing = Replacing(pool, "--all", "--in-place", "--move")
    counts = run("worker: drain --in-place --move, the only one", pool.url, QUICK.num_requests, replacing)
    replacing.check()
    assert "hands its streams over" in pool.log()
    counts.check(float("inf"))


def num_resumes(pool: Served) -> float:
    """Attempts after a job's first, as the front counts them."""
    lines = httpx.get(f"{pool.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("tokenyard_request_resumes_total{"))


def test_a_worker_that_loads_is_not_drained(pool: Served) -> None:
    """The last: it leaves a worker that never comes to load."""
    (old,) = pool.ready_pids()
    psutil.Process(old).kill()
    rows: list[dict[str, Any]] = []

    def stopped() -> bool:
        """At first sight: it loads for some tenths of a second only."""
        rows[:] = [row for row in pool.status()["workers"] if row["state"] == "loading"]
        for row in rows:
            psutil.Process(row["pid"]).suspend()
        for pid in pool.ready_pids():  # it was quicker than this look; the life that follows has no standby yet
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        return bool(rows)

    wait_until(stopped, "the next life to load")
    (row,) = rows
    done = drain(pool, row["inc"][:8])
    assert done.returncode == 2
    assert f"{row['inc'][:8]} is still loading, and has nothing to drain" in done.stderr
