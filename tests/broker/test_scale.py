"""What an event costs must not grow with the pool: counted in lines of Python and entries of scanned tables."""

import gc
import sys
from types import FrameType
from typing import Any

import pytest
from broker_bench import PlainBroker
from broker_sim import Broker, World
from switch import inc, secret

from tokenyard.broker.codec import encode
from tokenyard.broker.config import MAX_MESSAGE_BYTES
from tokenyard.broker.core import Core
from tokenyard.broker.wire import PROTOCOL, Answer, FrontHello, Status, Welcome

SIZES = (1, 10, 10_000)
NUM_JOBS = 600
FLAT = 1.2
"""The issue's bound on the growth from 1 to 10,000 workers."""


class Work:
    """A clock that counts lines while it runs; it is started and stopped by being looked at, as a stopwatch."""

    def __init__(self) -> None:
        self.num = 0
        self._running = False

    def __call__(self) -> int:
        self._running = not self._running
        sys.settrace(self._trace if self._running else None)
        return self.num

    def _trace(self, _frame: FrameType, event: str, _argument: object) -> Any:
        self.num += event == "line"
        return self._trace


def scanned(table: dict[Any, Any], work: Work) -> dict[Any, Any]:
    """The same table, each look at all of whose entries counts as so many lines."""

    def watched(name: str) -> Any:
        def scan(self: dict[Any, Any]) -> Any:
            work.num += len(self)
            return getattr(dict, name)(self)

        return scan

    kind = type("Scanned", (dict,), {name: watched(name) for name in ("__iter__", "keys", "values", "items")})
    return kind(table)  # type: ignore[no-any-return]


def work_of(broker: Broker, num_workers: int, num_jobs: int) -> dict[str, float]:
    """By kind of event: lines for one."""
    work = Work()
    world = World(broker, num_workers, lambda: 0, in_flight=2)
    if isinstance(broker, Core):
        state = broker._state
        state.workers, state.peers, state.owners = (
            scanned(t, work) for t in (state.workers, state.peers, state.owners)
        )
        for model in state.models.values():
            model.workers = scanned(model.workers, work)
    for counter in (world.spent, world.count):
        counter.clear()
    world.clock = work
    began_s = world.now
    world.run(num_jobs, jobs_per_death=100)
    lines = {kind: world.spent[kind] / world.count[kind] for kind in ("beat", "death", "birth") if world.count[kind]}
    lines["job"] = (world.spent["submit"] + world.spent["done"]) / world.count["done"]
    lines["tick"] = world.spent["tick"] / ((world.now - began_s) * num_workers)
    assert world.count["death"] >= 2
    return lines


@pytest.fixture(scope="module")
def work() -> dict[int, dict[str, float]]:
    traced = sys.gettrace()
    try:
        return {size: work_of(Core(b"a broker", 0.0), size, NUM_JOBS) for size in SIZES}
    finally:
        sys.settrace(traced)


@pytest.mark.parametrize("kind", ["job", "beat", "death", "tick"])
def test_the_work_for_one_event_does_not_grow_with_the_pool(work: dict[int, dict[str, float]], kind: str) -> None:
    assert work[10_000][kind] <= FLAT * work[1][kind]
    assert work[10_000][kind] <= FLAT * work[10][kind]


def test_the_count_would_show_a_scan() -> None:
    """The obvious broker's work grows, so the measure measures."""
    small, large = (work_of(PlainBroker(), size, 200)["job"] for size in (10, 300))
    assert large > 10 * small


def test_no_event_leaves_a_cycle_for_the_collector() -> None:
    """The broker's process has the collector off: with a large pool in memory a collection would take half a second."""
    gc.collect()
    gc.disable()
    try:
        world = World(Core(b"a broker", 0.0), 5, lambda: 0)
        world.run(1_000, jobs_per_death=100)
        before = gc.get_count()[0]
        assert before > 0
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_front_hears_of_all_workers_however_many() -> None:
    core = Core(b"a broker", 0.0)
    World(core, 3_000, lambda: 0, in_flight=0)
    hello = FrontHello(PROTOCOL, inc("newcomer"), 1, [], secret("newcomer"))
    welcomes = [message for _, message in core.handle(b"f", hello, 3.0)]
    told: set[bytes] = set()
    for welcome in welcomes:
        assert isinstance(welcome, Welcome)
        assert len(encode(welcome)) <= MAX_MESSAGE_BYTES
        told |= {worker.inc for worker in welcome.workers}
        assert welcome.more == (welcome is not welcomes[-1])
    assert told == core._state.workers.keys()
    answers = [message for _, message in core.handle(b"o", Status(1), 3.0)]
    rows = []
    for answer in answers:
        assert isinstance(answer, Answer)
        assert len(encode(answer)) <= MAX_MESSAGE_BYTES
        rows += answer.body["workers"]
    assert {row["inc"] for row in rows} == {inc.hex() for inc in told}
