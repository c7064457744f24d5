"""Models that go wrong in a step: one bad sequence, a failing device, and a job that crashes whatever runs it."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from disturb import QUICK, SETTLE_S
from faulty import CRASH, DEVICE, HANG, NAN, RAISE, RUN, faulty_environment, save_faulty
from served import Served
from traffic import Judge
from yard import wait_until

if TYPE_CHECKING:
    from conftest import Run

pytestmark = pytest.mark.slow

NUM_WORKERS = 2
STEP_S = 4
"""Given to a step before it counts as hung: a hundred times what one takes here."""
MAX_CRASHES = 3
"""A job's counted attempts (docs/protocol.md)."""


@pytest.fixture(scope="module")
def fuse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with faulty_environment(tmp_path_factory.mktemp("faulty")) as fuse:
        yield fuse


@pytest.fixture(scope="module")
def pool(fuse: Path) -> Iterator[Served]:
    directory = save_faulty(fuse.parent / "model")
    arguments = ("--workers", str(NUM_WORKERS), "--trust-remote-code", "--step-timeout", str(STEP_S))
    served = Served(f"{directory},name=tokenyard-demo", *arguments)
    try:
        yield served.wait_ready()
    finally:
        served.close()


def ask_for(pool: Served, token: int) -> httpx.Response:
    """A request whose prompt sets the fault off."""
    body: dict[str, Any] = {"model": "tokenyard-demo", "prompt": [5, 6, *[token] * RUN], "max_tokens": 8}
    return httpx.post(f"{pool.url}/v1/completions", json=body, timeout=100)


class Fault:
    """Asks amid the traffic, and keeps the answer."""

    def __init__(self, pool: Served, token: int) -> None:
        self._pool = pool
        self._token = token
        self.workers = pool.ready_pids()
        """Before the fault."""

    async def __call__(self) -> None:
        self.answer = await asyncio.to_thread(ask_for, self._pool, self._token)

    @property
    def error(self) -> str:
        return str(self.answer.json()["error"]["message"])


def num_deaths(pool: Served, words: str) -> int:
    """As the supervisor tells them; the broker may repeat its words."""
    return len(re.findall(rf"worker \d+ \(pid \d+\): {words}", pool.log()))


def test_only_the_bad_sequence_fails(pool: Served, run: "Run", judge: Callable[[str], Judge]) -> None:
    usual_s = judge(pool.url).undisturbed.stall_s
    fault = Fault(pool, NAN)
    run("step: one sequence gets no finite logits", pool.url, QUICK.num_requests, fault).check(usual_s + SETTLE_S)
    assert fault.answer.status_code == 500
    assert "no finite logits" in fault.error
    assert pool.ready_pids() == fault.workers, "nobody died of it"


def test_a_hung_engine_costs_its_process_and_nothing_else(
    pool: Served, run: "Run", judge: Callable[[str], Judge], fuse: Path
) -> None:
    """Its process lives, and its beats go on: only its step number stands still."""
    usual_s = judge(pool.url).undisturbed.stall_s
    fault = Fault(pool, HANG)
    fuse.touch()
    counts = run("step: one hangs for ever", pool.url, QUICK.num_requests, fault)
    counts.check(float("inf"))
    assert counts.stall_s > STEP_S - usual_s, "it had streams"
    assert fault.answer.status_code == 200, fault.answer.text
    assert not fuse.exists()
    assert num_deaths(pool, r"hung: step \d+ lasts for \d+ s") == 1, pool.log()
    (told,) = pool.status()["agents"][0]["troubles"]
    assert re.search(r"^worker \d died once, last at [\d:]+ \(/.* on cpu\): hung: step", told)
    wait_until(lambda: len(pool.ready_pids()) == NUM_WORKERS, "the worker to be replaced")
    assert len(pool.ready_pids() - fault.workers) == 1


@pytest.mark.faults
def test_a_failing_device_costs_its_process_and_nothing_else(pool: Served, run: "Run", fuse: Path) -> None:
    fault = Fault(pool, DEVICE)
    fuse.touch()
    run("step: the device fails once", pool.url, QUICK.num_requests, fault).check(float("inf"))
    assert fault.answer.status_code == 200, fault.answer.text
    assert not fuse.exists()
    wait_until(lambda: len(pool.ready_pids()) == NUM_WORKERS, "the worker to be replaced")
    assert len(pool.ready_pids() - fault.workers) == 1


@pytest.mark.faults
@pytest.mark.parametrize(("token", "words"), [(RAISE, "exit status 1"), (CRASH, "died of SIGSEGV")])
def test_a_job_that_crashes_its_workers_fails_alone(pool: Served, run: "Run", token: int, words: str) -> None:
    before = num_deaths(pool, words)
    fault = Fault(pool, token)
    run(f"step: a job that no worker survives ({words})", pool.url, QUICK.num_requests, fault).check(float("inf"))
    assert fault.answer.status_code == 500
    assert fault.answer.json()["error"]["code"] == "job_crashes_workers", fault.answer.text
    assert num_deaths(pool, words) == before + MAX_CRASHES
    wait_until(lambda: len(pool.ready_pids()) == NUM_WORKERS, "the fleet to be whole again")
