"""The faults of processes and cables in a pool over tcp and CURVE: what holds on one machine holds between them."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from disturb import SETTLE_S, Size, repeat, stop_each, whole
from tcp_yard import Proxy, TcpYard
from traffic import Judge

from tokenyard.broker.config import HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS, SILENCE_S, UNSUBSCRIBED_S

if TYPE_CHECKING:
    from conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHORT_S = 0.5
LONG_S = UNSUBSCRIBED_S + 1.5
DEAD_S = (HEARTBEAT_MS + HEARTBEAT_TIMEOUT_MS) / 1000 + 2
"""So long a silent connection may take to be given up."""
AGAIN_S = 1.5
"""To connect again after a cut: a reconnect, a handshake, and what a busy machine adds."""


@pytest.fixture(scope="module")
def yard() -> Iterator[TcpYard]:
    yard = TcpYard(num_workers=2)
    yield yard
    yard.close()


@pytest.fixture
def usual_s(yard: TcpYard, judge: Callable[[str], Judge]) -> float:
    undisturbed = judge(yard.url).undisturbed
    return undisturbed.stall_s + undisturbed.first_s + SETTLE_S


async def part(proxies: list[Proxy], how: Callable[[Proxy], None], seconds: float, count: int) -> None:
    """Cut or stop these cables, and mend them after so long."""
    for _ in range(count):
        for proxy in proxies:
            how(proxy)
        await asyncio.sleep(seconds)
        for proxy in proxies:
            proxy.mend()
        await asyncio.sleep(2.0)


@whole
def test_broker_killed_every_second(yard: TcpYard, run: "Run", usual_s: float, size: Size) -> None:
    counts = run(
        f"boxes; broker: kill -9 every second ×{size.num_faults}",
        yard.url,
        size.num_requests,
        lambda: repeat(size.num_faults, 1, yard.restart_broker),
    )
    counts.check(usual_s)


@whole
@pytest.mark.parametrize(("seconds", "count"), [(1.5, 5), (SILENCE_S + 2, 2)])
def test_workers_stopped(yard: TcpYard, run: "Run", usual_s: float, size: Size, seconds: float, count: int) -> None:
    counts = run(
        f"boxes; worker: SIGSTOP for {seconds:g} s ×{count}",
        yard.url,
        size.num_requests,
        lambda: stop_each(lambda turn: yard.workers[turn % 2].pid, count, seconds),
    )
    counts.check(usual_s + min(seconds, SILENCE_S + AGAIN_S))


@whole
@pytest.mark.parametrize(("seconds", "count"), [(SHORT_S, 10), (LONG_S, 3)])
def test_links_cut(yard: TcpYard, run: "Run", usual_s: float, size: Size, seconds: float, count: int) -> None:
    counts = run(
        f"boxes; front from workers: cut for {seconds:g} s ×{count}",
        yard.url,
        size.num_requests,
        lambda: part(yard.proxies, Proxy.cut, seconds, count),
    )
    counts.check(usual_s + seconds + AGAIN_S)


@whole
@pytest.mark.parametrize("seconds", [SILENCE_S, DEAD_S])
def test_links_silent(yard: TcpYard, run: "Run", usual_s: float, size: Size, seconds: float) -> None:
    """No end of a connection tells of it."""
    counts = run(
        f"boxes; front from one worker: silent for {seconds:g} s",
        yard.url,
        size.num_requests,
        lambda: part(yard.proxies[:1], Proxy.stop, seconds, 1),
    )
    counts.check(usual_s + seconds + AGAIN_S)


@whole
@pytest.mark.parametrize(("how", "seconds"), [(Proxy.cut, SHORT_S), (Proxy.cut, LONG_S), (Proxy.stop, SILENCE_S + 2)])
def test_everybody_parted_from_the_broker(
    yard: TcpYard, run: "Run", usual_s: float, size: Size, how: Callable[[Proxy], None], seconds: float
) -> None:
    """It takes all for dead meanwhile, and has their jobs done anew, if it is for long."""
    counts = run(
        f"boxes; all from the broker: {how.__name__} for {seconds:g} s ×2",
        yard.url,
        size.num_requests,
        lambda: part([yard.to_broker], how, seconds, 2),
    )
    counts.check(usual_s + seconds + AGAIN_S)
