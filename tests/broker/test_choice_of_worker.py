"""The dispatch index against the plain definition of what it must choose: a look at all workers and all queued jobs."""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from math import ceil

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from switch import Switch, held, inc, submit

from tokenyard.broker.dispatch import MAX_PREFIX_BONUS, MAX_PREFIX_WORKERS, NUM_BUCKETS
from tokenyard.broker.wire import Done, Goodbye, Start

CHAINS = [[f"{name}{depth}".encode() for depth in range(length)] for name in "ab" for length in (1, 2, 4, 8)]
"""Prompts that begin alike, and longer or shorter."""


@dataclass(eq=False)
class PlainWorker:
    capacity: int
    ready: bool = True
    jobs: set[int] = field(default_factory=set)
    step: int | None = None
    """Of load, while it takes jobs."""
    since: int = 0
    """When it came to that step."""


@dataclass(eq=False)
class PlainJob:
    number: int
    priority: int
    keys: list[bytes]


class Choice(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.switch = Switch()
        self.switch.front()
        self.clock = count()
        self.numbers = count()
        self.workers: dict[str, PlainWorker] = {}
        self.queue: list[PlainJob] = []
        """By arrival."""
        self.got: dict[bytes, list[str]] = {}
        """Of each key, the workers that got it, the latest first."""

    # ---- the definition

    def note_load(self, worker: PlainWorker) -> None:
        takes = worker.ready and len(worker.jobs) < worker.capacity
        step = ceil(Fraction(NUM_BUCKETS * len(worker.jobs), worker.capacity)) if takes else None
        if step != worker.step:
            worker.step, worker.since = step, next(self.clock)

    def choose(self, job: PlainJob) -> str | None:
        """The least loaded; among equals who came to it first; or who knows the prefix, if not much more loaded."""
        able = {name: worker for name, worker in self.workers.items() if worker.step is not None}
        if not able:
            return None
        least = min(able, key=lambda name: (able[name].step, able[name].since))
        num_known = max((depth + 1 for depth, key in enumerate(job.keys) if key in self.got), default=0)
        knowing = self.got[job.keys[num_known - 1]] if num_known else []
        bonus = MAX_PREFIX_BONUS * NUM_BUCKETS * num_known / max(1, len(job.keys))
        candidates = [name for name in knowing if name in able]
        if least in knowing or not candidates:
            return least
        best = min(candidates, key=lambda name: able[name].step or 0)  # the first of equals: the latest that got it
        return best if (able[best].step or 0) - bonus <= (able[least].step or 0) else least

    def expect(self) -> list[tuple[int, str]]:
        """Place what can be placed, by the definition."""
        placed = []
        while self.queue:
            job = min(self.queue, key=lambda one: one.priority)
            name = self.choose(job)
            if name is None:
                break
            self.queue.remove(job)
            self.workers[name].jobs.add(job.number)
            for key in job.keys:
                others = [other for other in self.got.get(key, []) if other != name]
                self.got[key] = [name, *others][:MAX_PREFIX_WORKERS]
            self.note_load(self.workers[name])
            placed.append((job.number, name))
        return placed

    def compare(self) -> None:
        found = [
            (message.job, name)
            for name in list(self.workers)
            for message in self.switch.mail(name)
            if isinstance(message, Start)
        ]
        assert sorted(found) == sorted(self.expect())

    # ---- what happens

    @initialize(capacities=st.lists(st.integers(1, 9), min_size=1, max_size=5))
    def populate(self, capacities: list[int]) -> None:
        for capacity in capacities:
            self.add_worker(capacity)

    @precondition(lambda self: len(self.workers) < 8)
    @rule(capacity=st.integers(1, 9))
    def add_worker(self, capacity: int) -> None:
        name = f"w{next(self.numbers)}"
        self.workers[name] = PlainWorker(capacity)
        self.note_load(self.workers[name])
        self.switch.tell(name, self.switch.hello(name, capacity=capacity))
        self.compare()

    @rule(keys=st.sampled_from(CHAINS), priority=st.integers(0, 1))
    def add_job(self, keys: list[bytes], priority: int) -> None:
        number = next(self.numbers)
        self.queue.append(PlainJob(number, priority, keys))
        self.switch.tell("front", submit(number, priority=priority, prefix_keys=keys))
        self.compare()

    @precondition(lambda self: any(worker.jobs for worker in self.workers.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, worker in self.workers.items() if worker.jobs]))
        job = data.draw(st.sampled_from(sorted(self.workers[name].jobs)))
        self.workers[name].jobs.remove(job)
        self.note_load(self.workers[name])
        self.switch.tell(name, Done(inc("front"), job, 1, "stop"))
        self.compare()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.workers)))
        worker = self.workers[name]
        worker.ready = False
        self.note_load(worker)
        jobs = [held("front", job) for job in worker.jobs]
        self.switch.tell(name, self.switch.hello(name, *jobs, capacity=worker.capacity, state="draining"))
        self.compare()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.workers)))
        del self.workers[name]
        self.switch.tell(name, Goodbye(inc(name)))
        self.switch.mail(name)
        self.compare()


class TestChoice(Choice.TestCase):
    settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
