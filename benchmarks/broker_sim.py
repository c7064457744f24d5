"""A pool around a broker's core, in simulated time: fronts, models, jobs that come and end, beats, workers that die.

Sans-IO as the core itself: its messages are made here and handed to it. What each kind of event costs is measured by
any clock that is given; what the simulation itself does is not measured. Deterministic.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tokenyard.broker.config import BEAT_S
from tokenyard.broker.identity import Identity
from tokenyard.broker.params import Params
from tokenyard.broker.wire import (
    PROTOCOL,
    Beat,
    Card,
    Done,
    FrontHello,
    Lost,
    Message,
    Ping,
    Start,
    Submit,
    WorkerHello,
    WorkerJob,
)

Event = tuple[bytes, Message]

NUM_FRONTS = 4
MODELS = ("chat", "code", "math")
CAPACITY = 16
IN_FLIGHT = 12
"""Jobs of one worker, on average: three quarters of what it takes."""
JOBS_PER_S = 1.5
"""Of one worker, so that a job lasts 8 s."""
BATCH = 4
"""Events of a kind that come together: less than what one worker is free for."""
NUM_GROUPS = 100
"""Of jobs that begin alike, as by one system prompt each."""
SHARED_KEYS = 8
OWN_KEYS = 4
"""Blocks of a prompt: those that its group shares, and its own."""
JOBS_PER_DEATH = 1000
SUCCESSOR_S = 5.0
"""From a worker's death until another one has taken its place."""
PARAMS = Params(max_tokens=256)
PROMPT = bytes(4 * 16 * (SHARED_KEYS + OWN_KEYS))


class Broker(Protocol):
    """Core, or what is compared with it."""

    def handle(self, peer: bytes, message: Message, now: float) -> list[Event]: ...

    def gone(self, peer: bytes, now: float) -> list[Event]: ...

    def tick(self, now: float) -> list[Event]: ...


def card(model: str) -> Card:
    """As a worker of a real model sends it, in length and in number of parts."""
    config = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "eos_token_id": [151645, 151643]}
    commit, source = "c" * 40, f"/srv/models/{model}"
    return Card([model, source], source, commit, 40960, 1 << 19, 16, "paged", "bfloat16", "cuda", 151936, [1], config)


class World:
    """By kind of event `spent` has what the clock says of all, `count` their number, `looks` how often it was asked."""

    def __init__(self, broker: Broker, num_workers: int, clock: Callable[[], int], in_flight: int = IN_FLIGHT) -> None:
        self.now = 2.0  # past the grace
        self.spent: Counter[str] = Counter()
        self.count: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self._broker = broker
        self.clock = clock
        self._rng = random.Random(1)
        self._rate = JOBS_PER_S * num_workers
        fronts = [Identity.of(b"front%011d" % index) for index in range(NUM_FRONTS)]
        self._fronts = [front.inc for front in fronts]
        self._workers: list[bytes] = []
        """By their places; a successor takes its predecessor's."""
        self._jobs: dict[bytes, dict[WorkerJob, None]] = {}
        """Of each worker, what runs on it."""
        self._running: list[tuple[bytes, WorkerJob]] = []
        """All that was started; of a dead worker until somebody looks."""
        self._lost: list[Event] = []
        """Submits to come of jobs that were lost."""
        self._births: deque[tuple[float, int]] = deque()
        """(when, place)"""
        self._num_jobs = 0
        self._num_lives = 0
        self._num_until_death = 0
        self._next_beat = 0
        """Beats so far; the workers take turns."""
        self.last_beat = Beat(b"", "ready", 0, 0, [])
        self._ping_s = self.now
        self._say("tick", [], self._broker.tick)
        self._say("front hello", [(me.inc, FrontHello(PROTOCOL, me.inc, 1, [], me.secret)) for me in fronts])
        for place in range(num_workers):
            self._workers.append(b"")
            self._be_born(place)
        for _ in range(0, in_flight * num_workers, BATCH):
            self._submit("fill", BATCH)

    @property
    def num_running(self) -> int:
        return sum(map(len, self._jobs.values()))

    def run(self, num_jobs: int, jobs_per_death: int = JOBS_PER_DEATH) -> None:
        """So many jobs end and come, in batches; meanwhile everybody beats, and one worker dies for so many jobs."""
        ends_at = self.count["done"] + num_jobs
        while self.count["done"] < ends_at:
            self.now += BATCH / self._rate
            self._submit("submit", self._finish())
            self._beat()
            self._ping()
            self._say("tick", [], self._broker.tick)
            self._num_until_death -= BATCH
            if self._num_until_death <= 0:
                self._num_until_death = jobs_per_death
                self._die()
            while self._births and self._births[0][0] <= self.now:
                self._be_born(self._births.popleft()[1])

    # ---- events

    def _submit(self, kind: str, num_fresh: int) -> None:
        events, self._lost = self._lost, []
        for number in range(self._num_jobs + 1, self._num_jobs + 1 + num_fresh):
            events.append((self._fronts[number % NUM_FRONTS], self._submit_of(number, 1)))
        self._num_jobs += num_fresh
        self._say(kind, events)

    def _submit_of(self, number: int, attempt: int) -> Submit:
        group = number * 7919 % NUM_GROUPS
        keys = [b"%08d%08d" % (group, depth) for depth in range(SHARED_KEYS)]
        keys += [b"%011d%05d" % (number, depth) for depth in range(OWN_KEYS)]
        model = MODELS[group % min(len(MODELS), len(self._workers))]
        return Submit(number, attempt, model, "generate", PROMPT, bytes(64 * (attempt > 1)), PARAMS, prefix_keys=keys)

    def _finish(self) -> int:
        """Returns how many jobs have ended."""
        events: list[Event] = []
        while self._running and len(events) < BATCH:
            index = self._rng.randrange(len(self._running))
            self._running[index], self._running[-1] = self._running[-1], self._running[index]
            worker, key = self._running.pop()
            if key in self._jobs.get(worker, ()):
                del self._jobs[worker][key]
                events.append((worker, Done(*key, "stop")))
        self._say("done", events)
        return len(events)

    def _beat(self) -> None:
        last = int((self.now - 2.0) / BEAT_S * len(self._workers))
        events: list[Event] = []
        for number in range(self._next_beat, last):
            if inc := self._workers[number % len(self._workers)]:
                load = {"running": 12, "waiting": 0, "num_blocks": 9999, "free_blocks": 999, "emitted_tokens": number}
                self.last_beat = Beat(inc, "ready", number, 0, list(self._jobs[inc]), load)
                events.append((inc, self.last_beat))
        self._next_beat = last
        self._say("beat", events)

    def _ping(self) -> None:
        if self.now >= self._ping_s:
            self._ping_s = self.now + BEAT_S
            self._say("ping", [(front, Ping(front)) for front in self._fronts])

    def _die(self) -> None:
        place = self._rng.randrange(len(self._workers))
        if inc := self._workers[place]:
            self._workers[place] = b""
            del self._jobs[inc]
            self._births.append((self.now + SUCCESSOR_S, place))
            self._say("death", [], lambda now: self._broker.gone(inc, now))

    def _be_born(self, place: int) -> None:
        self._num_lives += 1
        inc, secret = Identity.of(b"w%015d" % self._num_lives)
        self._workers[place] = inc
        self._jobs[inc] = {}
        endpoint = f"ipc:///run/user/1000/tokenyard-run-abcdefgh/w-{inc.hex()}.sock"
        hello = WorkerHello(
            PROTOCOL, inc, 1, "ready", endpoint, CAPACITY, card(MODELS[place % len(MODELS)]), [], "a worker", "", secret
        )
        self._say("birth", [(inc, hello)])

    # ---- what the broker does

    def _say(self, kind: str, events: Sequence[Event], otherwise: Callable[[float], list[Event]] | None = None) -> None:
        """Hand the events over, or have the broker do something else; measured, as all of one kind together."""
        handle, now, answers = self._broker.handle, self.now, []
        began = self.clock()
        if otherwise is not None:
            answers += otherwise(now)
        for peer, message in events:
            answers += handle(peer, message, now)
        self.spent[kind] += self.clock() - began
        self.looks[kind] += 1
        self.count[kind] += len(events) if otherwise is None else 1
        for peer, answer in answers:
            if isinstance(answer, Start):
                key = WorkerJob(answer.front, answer.job, answer.attempt)
                self._jobs[peer][key] = None
                self._running.append((peer, key))
            elif isinstance(answer, Lost):
                self._lost.append((peer, self._submit_of(answer.job, answer.attempt + 1)))
