"""Stops and deaths of a pool's parts while 32 streams run: no token lost, repeated or wrong, every request answered."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from disturb import SETTLE_S, Size, quick_and_whole, repeat, stop_each, whole
from traffic import Judge
from yard import Yard

from tokenyard.broker.config import SILENCE_S

if TYPE_CHECKING:
    from conftest import Run

pytestmark = pytest.mark.slow

SHORT_S = 1.5
"""Below SILENCE_S."""
LONG_S = SILENCE_S + 2


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    yard = Yard(num_workers=2)
    yield yard
    yard.close()


@pytest.fixture
def usual_s(yard: Yard, judge: Callable[[str], Judge]) -> float:
    """The longest stall of a run without faults: what this machine adds by itself."""
    return judge(yard.url).undisturbed.stall_s


@quick_and_whole
def test_broker_killed_every_second(yard: Yard, run: "Run", usual_s: float, size: Size) -> None:
    counts = run(
        f"broker: kill -9 every second ×{size.num_faults}",
        yard.url,
        size.num_requests,
        lambda: repeat(size.num_faults, 1, yard.restart_broker),
    )
    counts.check(usual_s + SETTLE_S)
    yard.wait_workers(2)


@quick_and_whole
def test_worker_stopped_for_less_than_its_death(yard: Yard, run: "Run", usual_s: float, size: Size) -> None:
    num_stops = size.num_faults // 2
    counts = run(
        f"worker: SIGSTOP for {SHORT_S} s ×{num_stops}",
        yard.url,
        size.num_requests,
        lambda: stop_each(lambda turn: yard.workers[turn % 2].pid, num_stops, SHORT_S),
    )
    counts.check(SHORT_S + usual_s + SETTLE_S)


@whole
def test_worker_stopped_for_longer_than_its_death(
    yard: Yard, run: "Run", judge: Callable[[str], Judge], usual_s: float, size: Size
) -> None:
    """Its streams go on elsewhere; when it wakes, what it still says of them is fenced, and it serves again."""
    counts = run(
        f"worker: SIGSTOP for {LONG_S:g} s ×2",
        yard.url,
        size.num_requests,
        lambda: stop_each(lambda turn: yard.workers[turn % 2].pid, 2, LONG_S, rest_s=2),
    )
    counts.check(SILENCE_S + usual_s + judge(yard.url).undisturbed.first_s + SETTLE_S)
    yard.wait_workers(2)


@quick_and_whole
@pytest.mark.parametrize("part", ["broker", "front"])
def test_part_stopped(yard: Yard, run: "Run", usual_s: float, size: Size, part: str) -> None:
    num_stops = max(1, size.num_faults // 3)
    counts = run(
        f"{part}: SIGSTOP for {SHORT_S} s ×{num_stops}",
        yard.url,
        size.num_requests,
        lambda: stop_each(lambda _: getattr(yard, part).pid, num_stops, SHORT_S),
    )
    # While the broker stands still, streams flow; while the front does, none can.
    counts.check((SHORT_S if part == "front" else 0) + usual_s + SETTLE_S)
