"""A pool over tcp and CURVE: streams survive the faults of processes and cables, and strangers get nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import zmq
from strangers import callers
from tcp_yard import TcpYard
from traffic import Judge, Traffic, asks
from yard import free_port, wait_until

from tokenyard.broker.config import UNSUBSCRIBED_S
from tokenyard.broker.curve import read_keys

pytestmark = [pytest.mark.slow, pytest.mark.faults]  # most of a minute; CI has the sockets' own tests

ASKS = asks(16)
NUM_REQUESTS = 40


@pytest.fixture(scope="module")
def yard() -> Iterator[TcpYard]:
    yard = TcpYard(num_workers=2)
    yield yard
    yard.close()


@pytest.fixture(scope="module")
def judge(yard: TcpYard) -> Judge:
    return Judge(asyncio.run(Traffic(yard.url, ASKS).run(len(ASKS))))


Disturb = Callable[[], Awaitable[object]]


def survive(yard: TcpYard, judge: Judge, disturb: Disturb, stall_s: float = float("inf")) -> None:
    judge.count(asyncio.run(Traffic(yard.url, ASKS).run(NUM_REQUESTS, disturb))).check(stall_s)


def test_streams_survive_a_killed_worker(yard: TcpYard, judge: Judge) -> None:
    victim = yard.workers.pop(0)
    yard.proxies.pop(0).close()

    async def kill() -> None:
        victim.kill()
        # By its connection's end: no kernel tells of a process on another box.
        await asyncio.to_thread(wait_until, lambda: len(yard.status()["workers"]) == 1, "the broker to notice", 2.0)

    survive(yard, judge, kill)
    assert victim.wait(5) == -9
    yard.workers.append(yard.start_worker())
    yard.wait_workers(2)


def test_streams_survive_a_killed_broker(yard: TcpYard, judge: Judge) -> None:
    async def kill() -> None:
        yard.restart_broker()

    survive(yard, judge, kill, judge.undisturbed.stall_s + 0.5)
    yard.wait_workers(2)


@pytest.mark.parametrize("seconds", [0.5, UNSUBSCRIBED_S + 1.5])
def test_streams_survive_a_cut_between_front_and_workers(yard: TcpYard, judge: Judge, seconds: float) -> None:
    """A long one has the workers free what they did for the front, and tell the broker so."""

    async def cut() -> None:
        for proxy in yard.proxies:
            proxy.cut()
        await asyncio.sleep(seconds)
        for proxy in yard.proxies:
            proxy.mend()

    survive(yard, judge, cut, judge.undisturbed.stall_s + judge.undisturbed.first_s + seconds + 1.5)


def test_a_key_that_is_taken_back_closes_both_doors_and_harms_nobody_else(yard: TcpYard, judge: Judge) -> None:
    (spy,) = [row["inc"] for row in yard.status()["fronts"]]
    port = free_port()
    url, listed = f"http://127.0.0.1:{port}", yard.keys / "allowed" / "box3.key"
    key = listed.read_bytes()
    other = yard.start("front", "--keys", str(yard.keys), "--port", str(port))
    try:
        wait_until(lambda: len(yard.status()["fronts"]) == 2, "the other front")

        async def take_back() -> None:
            listed.unlink()
            await asyncio.to_thread(
                wait_until, lambda: spy not in [row["inc"] for row in yard.status()["fronts"]], "the broker to act", 3.0
            )

        outcomes = asyncio.run(Traffic(url, ASKS).run(NUM_REQUESTS, take_back))
        judge.count(outcomes).check(float("inf"))
        wait_until(lambda: b"is not in the list of those let in" in yard.worker_log(), "a worker to refuse the front")
        listed.write_bytes(key)
        wait_until(lambda: len(yard.status()["fronts"]) == 2, "the front to be let in again")
        judge.count(asyncio.run(Traffic(yard.url, ASKS).run(4))).check(float("inf"))
    finally:
        other.kill()
        other.wait()


def test_strangers_hear_nothing_from_a_worker(yard: TcpYard, judge: Judge, tmp_path: Path) -> None:
    endpoint = yard.status()["workers"][0]["endpoint"]
    with zmq.Context() as context:
        sockets = callers(tmp_path / "keys", read_keys(yard.folder("worker")).public, context, zmq.XSUB, endpoint)
        for socket in sockets.values():
            socket.send(b"\x01")  # all topics
        judge.count(asyncio.run(Traffic(yard.url, ASKS).run(4))).check(float("inf"))
        for stranger, socket in sockets.items():
            assert not socket.poll(0), stranger
            socket.close()
    assert yard.worker_log().count(b"a handshake failed") == 1, "said once, not for each try"
