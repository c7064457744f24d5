"""Random search: fronts, workers and an agent around a core that restarts, over links that lose, repeat and reorder.

The tokens themselves travel elsewhere and arrive. What is searched for: a broken invariant, an attempt that the broker
knows to run started twice, a job that never ends, memory that stays.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from switch import card, secret, submit

from tokenyard.broker.config import BEAT_S, SILENCE_S, SUBMIT_REPEAT_S
from tokenyard.broker.core import Core
from tokenyard.broker.deaths import DEATH_MEMORY_S
from tokenyard.broker.identity import Identity
from tokenyard.broker.jobs import LINGER_S
from tokenyard.broker.progress import SILENT_KILL_S
from tokenyard.broker.wire import (
    PROTOCOL,
    Abort,
    Accepted,
    AgentHello,
    Beat,
    Cancel,
    Card,
    Done,
    Dying,
    Exited,
    FrontHello,
    FrontJob,
    Goodbye,
    Kill,
    Lost,
    Message,
    Ping,
    Placed,
    Reject,
    Start,
    Welcome,
    Who,
    WorkerHello,
    WorkerJob,
)

STEP_MS = 2500
MAX_DELAY_S = 1.0
"""A message is late by so much at most; what a stopped process leaves unread waits longer."""


@dataclass
class Stream:
    """A job as its front sees it."""

    attempt: int = 1
    accepted: bool = False
    crashes: int = 0
    repeat_s: float = 0.0


@dataclass
class SimFront:
    inc: bytes
    streams: dict[int, Stream] = field(default_factory=dict)
    epoch: bytes = b""
    num_jobs: int = 0


@dataclass
class SimWorker:
    inc: bytes
    capacity: int
    card: Card
    running: dict[tuple[bytes, int], int] = field(default_factory=dict)
    stopped: bool = False
    hung: bool = False
    """In a step that goes on for ever; its beats go on."""
    has_faltered: bool = False
    """Whether it was ever stopped or hung: the word to kill it may come late."""

    @property
    def claims(self) -> list[WorkerJob]:
        return [WorkerJob(front, job, attempt) for (front, job), attempt in self.running.items()]


STRANGER = Identity.of(secret("stranger"))
STRANGER_HELLO = (STRANGER.inc, 2, ["cpu"], [], [], [], [], [], [], STRANGER.secret)
"""Of an agent without workers."""


class Storm(RuleBasedStateMachine):
    AGENT = Identity.of(secret("agent")).inc

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.num_incs = 0
        self.num_crashes = 0
        self.secrets: dict[bytes, bytes] = {}
        self.fronts: dict[bytes, SimFront] = {}
        self.workers: dict[bytes, SimWorker] = {}
        self.to_broker: list[tuple[float, bytes, Message]] = []
        self.from_broker: defaultdict[bytes, list[tuple[float, Message]]] = defaultdict(list)
        self.start_core()

    # ---- the world

    def start_core(self) -> None:
        self.num_incs += 1
        self.core = Core(self.num_incs.to_bytes(8, "big"), self.now, awaited=self.workers, load_timeout_s=20.0)
        self.to_broker.clear()
        self.from_broker.clear()
        self.hello_all()

    def hello_all(self) -> None:
        for front in self.fronts.values():
            self.front_hello(front)
        for worker in self.workers.values():
            self.worker_hello(worker)
        self.agent_hello()

    def new_inc(self, letter: str) -> bytes:
        self.num_incs += 1
        me = Identity.of(f"{letter}{self.num_incs:015}".encode())
        self.secrets[me.inc] = me.secret
        return me.inc

    def send(self, peer: bytes, message: Message) -> None:
        self.to_broker.append((self.now, peer, message))

    def front_hello(self, front: SimFront) -> None:
        claims = [FrontJob(job, stream.attempt) for job, stream in front.streams.items() if stream.accepted]
        self.send(front.inc, FrontHello(PROTOCOL, front.inc, 1, claims, self.secrets[front.inc]))

    def worker_hello(self, worker: SimWorker) -> None:
        if not worker.stopped:
            mine = ("ipc://w", worker.capacity, worker.card, worker.claims, "w", "", self.secrets[worker.inc])
            hello = WorkerHello(PROTOCOL, worker.inc, 1, "ready", *mine)
            self.send(worker.inc, hello)

    def agent_hello(self) -> None:
        hello = AgentHello(PROTOCOL, self.AGENT, 1, ["cpu"], list(self.workers), secret=secret("agent"))
        hello = hello._replace(proofs=[self.secrets[inc] for inc in hello.workers])
        self.send(self.AGENT, hello)

    def send_submit(self, front: SimFront, job: int) -> None:
        stream = front.streams[job]
        stream.repeat_s = self.now + SUBMIT_REPEAT_S
        self.send(front.inc, submit(job, stream.attempt, crashes=stream.crashes))

    def next_attempt(self, front: SimFront, job: int) -> None:
        stream = front.streams[job]
        stream.attempt, stream.accepted = stream.attempt + 1, False
        self.send_submit(front, job)

    def done(self, worker: SimWorker, front: bytes, job: int, attempt: int) -> None:
        if worker.running.get((front, job)) == attempt:
            del worker.running[front, job]
            self.send(worker.inc, Done(front, job, attempt, ""))

    # ---- messages arrive

    def post(self, actions: list[tuple[bytes, Message]]) -> None:
        for peer, message in actions:
            self.from_broker[peer].append((self.now, message))
            if isinstance(message, Start):
                self.check_start(peer, message)
                assert peer not in self.workers or not self.core._state.workers[peer].kept_out
        self.core.check()

    def check_start(self, peer: bytes, start: Start) -> None:
        """Nobody whom this broker has heard may already run this attempt, or a newer one."""
        for worker in self.workers.values():
            if worker.inc != peer and worker.inc in self.core._state.peers:
                assert worker.running.get((start.front, start.job), 0) < start.attempt

    def deliver_to_broker(self, index: int) -> None:
        _, peer, message = self.to_broker.pop(index)
        self.post(self.core.handle(peer, message, self.now))

    def deliver_from_broker(self, peer: bytes, index: int) -> None:
        _, message = self.from_broker[peer].pop(index)
        if front := self.fronts.get(peer):
            self.to_front(front, message)
        elif worker := self.workers.get(peer):
            self.to_worker(worker, message)
        elif peer == self.AGENT and isinstance(message, Who):
            self.agent_hello()
        elif peer == self.AGENT and isinstance(message, Kill) and message.inc in self.workers:
            assert self.workers[message.inc].has_faltered
            del self.workers[message.inc]
            self.num_crashes += 1
            self.send(self.AGENT, Exited(message.inc, "crash", message.words))

    def to_front(self, front: SimFront, message: Message) -> None:
        match message:
            case Who():
                self.front_hello(front)
            case Welcome(epoch):
                if front.epoch not in (b"", epoch):
                    for job in front.streams:
                        self.next_attempt(front, job)
                front.epoch = epoch
            case Accepted(job, attempt) | Placed(job, attempt, _):
                if (stream := front.streams.get(job)) and stream.attempt == attempt:
                    stream.accepted = True
            case Reject(job, attempt, code, _, _):
                assert code in ("cancelled", "job_crashes_workers", "model_not_found", "pool_unavailable")
                assert code != "job_crashes_workers" or self.num_crashes >= 3
                if (stream := front.streams.get(job)) and stream.attempt == attempt:
                    del front.streams[job]
            case Lost(job, attempt, crashes):
                if stream := front.streams.get(job):
                    stream.crashes = max(stream.crashes, crashes)
                    if stream.attempt == attempt:
                        self.next_attempt(front, job)

    def to_worker(self, worker: SimWorker, message: Message) -> None:
        match message:
            case Who():
                self.worker_hello(worker)
            case Start(front, job, attempt):
                running = worker.running.get((front, job), 0)
                if running < attempt:
                    self.done(worker, front, job, running)
                    worker.running[front, job] = attempt
            case Abort(front, job, attempt):
                running = worker.running.get((front, job), 0)
                if 0 < running <= attempt:
                    self.done(worker, front, job, running)

    def deliver_late(self, delay_s: float) -> None:
        """Whatever is older than this arrives, in order, save at processes that are stopped."""
        while self.to_broker and self.to_broker[0][0] <= self.now - delay_s:
            self.deliver_to_broker(0)
        for peer, mail in list(self.from_broker.items()):
            worker = self.workers.get(peer)
            while mail and mail[0][0] <= self.now - delay_s and not (worker and worker.stopped):
                self.deliver_from_broker(peer, 0)

    def pass_time(self, time_s: float, delay_s: float = MAX_DELAY_S) -> None:
        end = self.now + time_s
        while self.now < end:
            self.now = min(end, self.now + BEAT_S / 2)
            for front in self.fronts.values():
                self.send(front.inc, Ping(front.inc))
                for job, stream in list(front.streams.items()):
                    if not stream.accepted and self.now >= stream.repeat_s:
                        self.send_submit(front, job)
            for worker in self.workers.values():
                if not worker.stopped:
                    step, step_ms = (0, STEP_MS) if worker.hung else (round(self.now * 1000), 0)
                    self.send(worker.inc, Beat(worker.inc, "ready", step, 0, worker.claims, {}, step_ms))
            self.send(self.AGENT, Ping(self.AGENT))
            self.deliver_late(delay_s)
            self.post(self.core.tick(self.now))

    # ---- what can happen

    @initialize(num_fronts=st.integers(1, 2), capacities=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def populate(self, num_fronts: int, capacities: list[int]) -> None:
        for _ in range(num_fronts):
            inc = self.new_inc("f")
            self.fronts[inc] = SimFront(inc)
        for capacity in capacities:
            self.add_worker(capacity)
        self.hello_all()
        self.deliver_late(0)

    @precondition(lambda self: len(self.workers) < 4)
    @rule(capacity=st.integers(1, 3), commit=st.sampled_from(["commit", "commit", "other"]))
    def add_worker(self, capacity: int, commit: str = "commit") -> None:
        inc = self.new_inc("w")
        self.workers[inc] = SimWorker(inc, capacity, card(commit=commit, created=self.num_incs))
        self.agent_hello()
        self.worker_hello(self.workers[inc])

    @rule(data=st.data())
    def lie(self, data: st.DataObject) -> None:
        """Another agent, or a connection that is nobody's, speaks for or of a peer of this pool."""
        self.post(self.core.handle(STRANGER.inc, AgentHello(PROTOCOL, *STRANGER_HELLO), self.now))
        inc = data.draw(st.sampled_from([*self.fronts, *self.workers, self.AGENT]))
        lies: list[Message] = [
            FrontHello(PROTOCOL, inc, 1, []),
            WorkerHello(PROTOCOL, inc, 1, "ready", "ipc://lie", 1, card(), [], "w"),
            AgentHello(PROTOCOL, inc, 1, [], []),
            AgentHello(PROTOCOL, STRANGER.inc, 1, [], [inc], secret=STRANGER.secret),
            *(Goodbye(inc, "a crash"), Dying(inc), Exited(inc, "crash", "a lie")),
        ]
        liar, told = data.draw(st.sampled_from([STRANGER.inc, b"liar"])), data.draw(st.sampled_from(lies))
        before = self.who_is_who()
        self.post(self.core.handle(liar, told, self.now))
        assert self.who_is_who() == before, "a lie changed who is here, or whose it is"

    def who_is_who(self) -> tuple[set[Any], dict[bytes, Any]]:
        state = self.core._state
        return {(type(one), one.inc) for one in state.peers.values()}, dict(state.owners)

    @rule(data=st.data(), num_jobs=st.integers(1, 4))
    def submit_jobs(self, data: st.DataObject, num_jobs: int) -> None:
        front = data.draw(st.sampled_from(list(self.fronts.values())))
        for _ in range(num_jobs):
            front.num_jobs += 1
            front.streams[front.num_jobs] = Stream()
            self.send_submit(front, front.num_jobs)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if streams := [(front, job) for front in self.fronts.values() for job in front.streams]:
            front, job = data.draw(st.sampled_from(streams))
            del front.streams[job]
            self.send(front.inc, Cancel(job))

    def finish_one(self, worker: SimWorker, key: tuple[bytes, int]) -> None:
        """The worker's last tokens reach the front, if that still wants them, and Done sets out."""
        attempt = worker.running[key]
        front = self.fronts.get(key[0])
        stream = front.streams.get(key[1]) if front else None
        if front and stream and stream.attempt == attempt:
            del front.streams[key[1]]
        self.done(worker, *key, attempt)

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        awake = [worker for worker in self.workers.values() if not worker.stopped and not worker.hung]
        if jobs := [(worker, key) for worker in awake for key in worker.running]:
            self.finish_one(*data.draw(st.sampled_from(jobs)))

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(),
        crashed=st.booleans(),
        seen=st.booleans(),
        word_first=st.booleans(),
        dying_s=st.sampled_from([0, 3]),
    )
    def kill_worker(self, data: st.DataObject, crashed: bool, seen: bool, word_first: bool, dying_s: float) -> None:
        """`dying_s`: how long the kernel takes to bring it down, if its agent sees it begin."""
        worker = self.workers.pop(data.draw(st.sampled_from(list(self.workers))))
        self.num_crashes += crashed
        if dying_s:
            self.send(self.AGENT, Dying(worker.inc))
            self.pass_time(dying_s)
        exited = Exited(worker.inc, "crash" if crashed else "killed", "")
        if word_first:
            self.post(self.core.handle(self.AGENT, exited, self.now))
        if seen:
            self.post(self.core.gone(worker.inc, self.now))
        if not word_first:
            self.send(self.AGENT, exited)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def stop_or_wake_worker(self, data: st.DataObject) -> None:
        worker = self.workers[data.draw(st.sampled_from(list(self.workers)))]
        worker.stopped, worker.has_faltered = not worker.stopped, True

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def hang_or_free_worker(self, data: st.DataObject) -> None:
        worker = self.workers[data.draw(st.sampled_from(list(self.workers)))]
        worker.hung, worker.has_faltered = not worker.hung, True
        self.num_crashes += 3  # of each hang at the most: its broker may be restarted and judge it anew

    @precondition(lambda self: len(self.fronts) > 1)
    @rule(data=st.data(), seen=st.booleans())
    def kill_front(self, data: st.DataObject, seen: bool) -> None:
        inc = data.draw(st.sampled_from(list(self.fronts)))
        del self.fronts[inc]
        if seen:
            self.post(self.core.gone(inc, self.now))

    @rule()
    def restart_broker(self) -> None:
        self.start_core()

    @rule(time_s=st.sampled_from([0.02, 0.3, 1.0, 3.0, 6.0]))
    def wait(self, time_s: float) -> None:
        self.pass_time(time_s)

    @rule()
    def deliver_all(self) -> None:
        self.deliver_late(0)

    @rule(data=st.data(), fate=st.sampled_from(["deliver", "drop", "repeat"]), inbound=st.booleans())
    def meddle(self, data: st.DataObject, fate: str, inbound: bool) -> None:
        """One of the next few messages of a link overtakes the others, is lost, or comes twice."""
        if inbound:
            near = [i for i, (_, _, message) in enumerate(self.to_broker) if not isinstance(message, Ping | Beat)][:6]
            if near:
                index = data.draw(st.sampled_from(near))
                if fate == "repeat":
                    self.to_broker.append(self.to_broker[index])
                if fate == "drop":
                    del self.to_broker[index]
                else:
                    self.deliver_to_broker(index)
        elif awake := [peer for peer, mail in self.from_broker.items() if mail and not self.is_stopped(peer)]:
            peer = data.draw(st.sampled_from(awake))
            mail = self.from_broker[peer]
            index = data.draw(st.integers(0, min(4, len(mail) - 1)))
            # A front that lives loses what the broker said only with the broker, and then its hello brings it back.
            lasting = isinstance(mail[index][1], Lost | Reject)
            if fate == "repeat":
                mail.append(mail[index])
            if fate == "drop" and not lasting:
                del mail[index]
            else:
                self.deliver_from_broker(peer, index)

    def is_stopped(self, peer: bytes) -> bool:
        return peer in self.workers and self.workers[peer].stopped

    @invariant()
    def holds(self) -> None:
        self.core.check()

    # ---- and then calm

    def teardown(self) -> None:
        """Faults end: workers run only what is wanted, every job ends, and the broker remembers none of it."""
        for worker in self.workers.values():
            worker.stopped = worker.hung = False
        self.pass_time(2 * SILENCE_S, delay_s=0)
        for worker in self.workers.values():
            for inc, job in list(worker.running):
                # A lost Cancel: the front answers the first tokens of a job that it does not know with Stop.
                if inc in self.fronts and job not in self.fronts[inc].streams:
                    self.done(worker, inc, job, worker.running[inc, job])
            for (inc, job), attempt in worker.running.items():
                assert inc in self.fronts, "its front is dead"
                assert self.fronts[inc].streams[job].attempt == attempt, "nobody wants it"
        if self.fronts and not self.workers:
            self.add_worker(2)
        for _ in range(200):
            self.pass_time(BEAT_S, delay_s=0)
            for worker in self.workers.values():
                for key in list(worker.running):
                    self.finish_one(worker, key)
            if not any(front.streams for front in self.fronts.values()):
                break
        assert not any(front.streams for front in self.fronts.values()), "a job that never ends"
        self.pass_time(LINGER_S + DEATH_MEMORY_S, delay_s=0)
        for worker in self.workers.values():
            for key in list(worker.running):
                self.finish_one(worker, key)
        self.pass_time(LINGER_S + DEATH_MEMORY_S, delay_s=0)
        if self.core._deaths:  # of one that was silent first, and whose end nobody told
            self.pass_time(SILENT_KILL_S, delay_s=0)
        state = self.core._state
        assert not any(front.jobs for front in state.fronts.values())
        assert not any(worker.placements for worker in state.workers.values())
        assert not state.num_queued
        assert not state.ended
        assert not state.deadlines
        assert not self.core._deaths
        assert state.workers.keys() == self.workers.keys()
        assert state.fronts.keys() == self.fronts.keys()


class TestStorm(Storm.TestCase):
    settings = settings(max_examples=20, stateful_step_count=40, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestLongStorm(Storm.TestCase):
    settings = settings(TestStorm.settings, max_examples=150, stateful_step_count=60)
