"""Where jobs go: load, known prefixes, and queues that let any job leave."""

import gc
import random
import sys
from types import FrameType
from typing import Any

import pytest
from switch import NAMES, Switch, card, inc, secret, submit

from tokenyard.broker.core import Core
from tokenyard.broker.dispatch import MAX_PREFIX_WORKERS, PrefixMemory
from tokenyard.broker.records import Worker
from tokenyard.broker.wire import PROTOCOL, Cancel, Done, FrontHello, Placed, WorkerHello


def place(switch: Switch, job: int, **fields: Any) -> str:
    """Submit and return the worker that got it."""
    (placed,) = switch.say("front", submit(job, **fields))
    assert isinstance(placed, Placed)
    return NAMES[placed.worker]


def make(**capacities: int) -> Switch:
    switch = Switch()
    switch.front()
    for name, capacity in capacities.items():
        switch.worker(name, capacity=capacity)
    return switch


def chain(name: str, length: int) -> list[bytes]:
    return [f"{name}{depth}".encode() for depth in range(length)]


def workers(number: int) -> list[Worker]:
    return [Worker(b"%d" % index, b"", 1, "", "", 4, "ready", None, 0.0) for index in range(number)]


def test_the_least_loaded_share_is_next() -> None:
    switch = make(small=2, large=8)
    counts = {"small": 0, "large": 0}
    for job in range(10):
        counts[place(switch, job)] += 1
        assert abs(counts["small"] / 2 - counts["large"] / 8) <= 0.5
    assert counts == {"small": 2, "large": 8}


def test_equals_take_turns() -> None:
    switch = make(w1=9, w2=9, w3=9)
    assert {place(switch, job) for job in range(3)} == {"w1", "w2", "w3"}


def test_a_known_prefix_attracts_up_to_a_quarter_of_imbalance() -> None:
    switch = make(w1=8, w2=8)
    keys = chain("a", 4)
    first = place(switch, 1, prefix_keys=keys)
    followers = [place(switch, job, prefix_keys=keys) for job in range(2, 5)]
    assert followers == [first, first, "w2" if first == "w1" else "w1"]


def test_a_prefix_known_in_part_buys_less() -> None:
    switch = make(w1=8, w2=8)
    keys = chain("a", 4)
    first = place(switch, 1, prefix_keys=keys[:1])
    assert place(switch, 2, prefix_keys=keys) != first


def test_an_unknown_prefix_changes_nothing() -> None:
    switch = make(w1=8, w2=8)
    first = place(switch, 1, prefix_keys=chain("a", 4))
    assert place(switch, 2, prefix_keys=chain("b", 4)) != first


def test_a_worker_that_is_gone_attracts_nothing() -> None:
    switch = make(w1=8, w2=8)
    first = place(switch, 1, prefix_keys=chain("a", 4))
    switch.gone(first)
    assert place(switch, 2, prefix_keys=chain("a", 4)) != first


def test_a_full_worker_attracts_nothing() -> None:
    switch = make(w1=1, w2=1)
    first = place(switch, 1, prefix_keys=chain("a", 4))
    assert place(switch, 2, prefix_keys=chain("a", 4)) != first


def test_prefix_memory_forgets_the_deepest_and_oldest_first() -> None:
    memory, (one, two) = PrefixMemory(limit=4), workers(2)
    memory.remember(chain("a", 3), one)
    memory.remember(chain("b", 2), two)
    assert len(memory) == 4
    assert memory.longest(chain("a", 3)) == (2, (one,))
    assert memory.longest(chain("b", 9)) == (2, (two,))
    assert memory.longest(chain("c", 9)) == (0, ())
    assert memory.longest([]) == (0, ())


def test_prefix_memory_knows_the_latest_few_workers() -> None:
    memory, all_workers = PrefixMemory(), workers(MAX_PREFIX_WORKERS + 2)
    for worker in all_workers:
        memory.remember([b"k"], worker)
    assert memory.longest([b"k"]) == (1, tuple(reversed(all_workers[-MAX_PREFIX_WORKERS:])))


def test_many_random_jobs_stay_balanced_and_all_run() -> None:
    """Against the plain rule: at each placement nobody else had less load by more than what a prefix buys."""
    rng = random.Random(1)
    switch = make(**{f"w{index}": rng.randint(1, 9) for index in range(12)})
    workers = switch.core._state.workers
    running: list[tuple[int, str]] = []
    for job in range(400):
        if running and rng.random() < 0.5:
            done, worker = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.2:
                switch.say("front", Cancel(done))
            switch.say(worker, Done(inc("front"), done, 1, "stop"))
        shares = {worker.name: len(worker.placements) / worker.capacity for worker in workers.values()}
        if min(shares.values()) < 1:
            name = place(switch, job, prefix_keys=chain(rng.choice("abc"), 3))
            running.append((job, name))
            assert shares[name] <= min(shares.values()) + 0.25 + 1 / 256


def num_lines_for_one_job(num_workers: int, num_queued: int) -> int:
    """Lines of Python that run to place a job and to end one, in a pool of that size."""
    core = Core(inc("epoch"), 0.0, queue_limit=num_queued + 1)
    core.handle(b"front", FrontHello(PROTOCOL, inc("front"), 1, [], secret("front")), 0.0)
    for index in range(num_workers):
        mine = ("ipc://w", 2, card(), [], "", "", secret(str(index)))
        hello = WorkerHello(PROTOCOL, inc(str(index)), 1, "ready", *mine)
        core.handle(b"%d" % index, hello, 0.0)
    num_running = 2 * num_workers if num_queued else num_workers
    for job in range(num_running + num_queued):
        core.handle(b"front", submit(job), 0.0)
    num_lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal num_lines
        num_lines += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # what others have left behind may run code as it is collected
    sys.settrace(trace)
    core.handle(b"front", submit(10**6), 0.0)
    core.handle(b"0", Done(inc("front"), 0, 1, "stop"), 0.0)
    sys.settrace(before)
    gc.enable()
    return num_lines


@pytest.mark.parametrize("num_queued", [0, 10])
def test_the_work_for_one_job_does_not_grow_with_workers(num_queued: int) -> None:
    assert num_lines_for_one_job(1000, num_queued) <= num_lines_for_one_job(10, num_queued)


def test_the_work_for_one_job_does_not_grow_with_the_queue() -> None:
    assert num_lines_for_one_job(10, 1000) == num_lines_for_one_job(10, 10)
