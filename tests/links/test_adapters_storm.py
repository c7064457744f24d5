"""Random search over adapters: a real broker core and real desks, while workers and the broker die and files change.

What is searched for: a broken invariant, a job started where its adapter is not, a request that is never answered, a
worker that in the end has not what it is to have.
"""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from switch import MODEL, card, inc, secret, submit

from tokenyard.broker.adapters import RETRY_S
from tokenyard.broker.config import BEAT_S, GRACE_S
from tokenyard.broker.core import Core
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import (
    PLAIN,
    PROTOCOL,
    Adapter,
    AdapterKey,
    AddAdapter,
    Answer,
    Done,
    FrontHello,
    Lost,
    Message,
    Ping,
    Placed,
    Reject,
    RemoveAdapter,
    Start,
    Welcome,
    Who,
)
from tokenyard.workers.adapter_desk import Adopt
from tokenyard.workers.adoption import CHANGED
from tokenyard.workers.desk import Action, Add, Desk, ToBroker

FRONT = inc("front")
NAMES = ["x", "y"]
SOURCES = ["one", "two"]
GIVEN = Adapter("given", MODEL, "one")


@dataclass
class SimWorker:
    inc: bytes
    desk: Desk
    to_broker: deque[Message] = field(default_factory=deque)
    from_broker: deque[Message] = field(default_factory=deque)
    reading: deque[Adapter] = field(default_factory=deque)
    running: list[Add] = field(default_factory=list)


@dataclass
class Stream:
    model: str
    attempt: int = 1
    version: str = ""
    """Of the adapter that has begun it."""


class AdapterStorm(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.num_incs = 0
        self.num_asked = 0
        self.workers: dict[bytes, SimWorker] = {}
        self.files = dict.fromkeys(SOURCES, 1)
        """What is in each directory; 0: nothing that could be loaded."""
        self.num_written = 1
        self.asked: dict[int, AddAdapter | RemoveAdapter] = {}
        self.streams: dict[int, Stream] = {}
        self.num_jobs = 0
        self.mail: deque[Message] = deque()
        """For the front."""
        self.epoch = b""
        self.start_broker()
        self.add_worker()

    # The world.

    @rule()
    def start_broker(self) -> None:
        """All that was on its way is lost."""
        self.num_incs += 1
        self.core = Core(
            self.num_incs.to_bytes(8, "big"), self.now, awaited=self.workers, load_timeout_s=20.0, adapters=[GIVEN]
        )
        self.mail.clear()
        self.post(self.core.handle(FRONT, FrontHello(PROTOCOL, FRONT, 1, [], secret("front")), self.now))
        for worker in self.workers.values():
            worker.to_broker.clear()
            worker.from_broker.clear()
            self.do(worker, worker.desk.connected())

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def add_worker(self) -> None:
        self.num_incs += 1
        me = Identity.of(f"w{self.num_incs:015}".encode())
        worker = self.workers[me.inc] = SimWorker(me.inc, Desk(me, 1, "ipc://w", "w", 3, self.now))
        self.do(worker, worker.desk.loaded(card()))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def kill_worker(self, data: st.DataObject) -> None:
        worker = self.workers.pop(data.draw(st.sampled_from(list(self.workers))))
        self.post(self.core.gone(worker.inc, self.now))

    @rule(source=st.sampled_from(SOURCES), good=st.booleans())
    def write(self, source: str, good: bool) -> None:
        self.num_written += 1
        self.files[source] = self.num_written if good else 0

    @rule(name=st.sampled_from(NAMES), source=st.sampled_from(SOURCES), replace=st.booleans())
    def ask_for(self, name: str, source: str, replace: bool) -> None:
        self.num_asked += 1
        adapter = Adapter(name, MODEL, source, self.num_asked)
        self.asked[self.num_asked] = AddAdapter(self.num_asked, adapter, replace)
        self.tell(self.asked[self.num_asked])

    @rule(name=st.sampled_from([*NAMES, "given"]))
    def ask_to_remove(self, name: str) -> None:
        self.num_asked += 1
        self.asked[self.num_asked] = RemoveAdapter(self.num_asked, name)
        self.tell(self.asked[self.num_asked])

    @rule(model=st.sampled_from([MODEL, *NAMES, "given"]))
    def submit(self, model: str) -> None:
        self.num_jobs += 1
        self.streams[self.num_jobs] = Stream(model)
        self.send_submit(self.num_jobs)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), count=st.integers(1, 6), inbound=st.booleans())
    def deliver(self, data: st.DataObject, count: int, inbound: bool) -> None:
        worker = self.workers[data.draw(st.sampled_from(list(self.workers)))]
        for _ in range(count):
            if inbound and worker.to_broker:
                self.post(self.core.handle(worker.inc, worker.to_broker.popleft(), self.now))
            elif not inbound and worker.from_broker:
                self.to_worker(worker, worker.from_broker.popleft())

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """A worker's thread has read an adapter."""
        worker = self.workers[data.draw(st.sampled_from(list(self.workers)))]
        if worker.reading:
            self.take_in(worker, worker.reading.popleft())

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        worker = self.workers[data.draw(st.sampled_from(list(self.workers)))]
        if worker.running:
            self.end(worker, worker.running[0])

    @rule(time_s=st.sampled_from([0.3, 1.2, 5.0]))
    def wait(self, time_s: float) -> None:
        end = self.now + time_s
        while self.now < end:
            self.now += BEAT_S / 2
            self.tell(Ping(FRONT))
            for message in list(self.asked.values()):
                self.tell(message)
            for job in list(self.streams):
                if job in self.streams:
                    self.send_submit(job)
            for worker in self.workers.values():
                self.do(worker, worker.desk.tick(1, {}, self.now))
                while worker.to_broker:
                    self.post(self.core.handle(worker.inc, worker.to_broker.popleft(), self.now))
            self.post(self.core.tick(self.now))

    # What happens then.

    def tell(self, message: Message) -> None:
        self.post(self.core.handle(FRONT, message, self.now))

    def send_submit(self, job: int) -> None:
        stream = self.streams[job]
        self.tell(submit(job, stream.attempt, stream.model, version=stream.version))

    def post(self, actions: list[tuple[bytes, Message]]) -> None:
        self.core.check()
        for peer, message in actions:
            if peer == FRONT:
                self.mail.append(message)
            elif peer in self.workers:
                self.workers[peer].from_broker.append(message)
        while self.mail:
            self.to_front(self.mail.popleft())

    def to_front(self, message: Message) -> None:
        match message:
            case Answer(req):
                self.asked.pop(req, None)
            case Reject(job, attempt) | Lost(job, attempt) if job in self.streams:
                stream = self.streams[job]
                if stream.attempt == attempt and isinstance(message, Reject):
                    del self.streams[job]
                elif stream.attempt == attempt:
                    stream.attempt += 1
            case Welcome(epoch):
                if self.epoch not in (b"", epoch):
                    for stream in self.streams.values():
                        stream.attempt += 1
                self.epoch = epoch
            case Who():
                self.tell(FrontHello(PROTOCOL, FRONT, 1, [], secret("front")))
            case Placed():
                pass

    def to_worker(self, worker: SimWorker, message: Message) -> None:
        if isinstance(message, Start) and message.adapter:
            keys = [one.key for one in worker.desk._adapters.loaded]
            assert AdapterKey(message.adapter, message.version) in keys, "started where its adapter is not"
            stream = self.streams.get(message.job)
            if stream is not None and stream.attempt == message.attempt:
                assert stream.version in ("", message.version), "half by one, half by another"
        self.do(worker, worker.desk.from_broker(message, self.now))  # type: ignore[arg-type]

    def do(self, worker: SimWorker, actions: list[Action]) -> None:
        worker.desk.check()
        for action in actions:
            if isinstance(action, ToBroker):
                worker.to_broker.append(action.message)
            elif isinstance(action, Adopt):
                worker.reading.append(action.adapter)
            elif isinstance(action, Add):
                worker.running.append(action)
                stream = self.streams.get(action.key.job)
                if stream is not None and stream.attempt == action.key.attempt and action.adapter != PLAIN:
                    stream.version = action.adapter.version

    def take_in(self, worker: SimWorker, adapter: Adapter) -> None:
        content = self.files[adapter.source]
        version = f"v{content}"
        if not content:
            return self.do(worker, worker.desk.not_adopted(adapter, TokenyardError("invalid_value", "broken")))
        if adapter.version not in ("", version):
            return self.do(worker, worker.desk.not_adopted(adapter, TokenyardError("pool_unavailable", CHANGED)))
        return self.do(worker, worker.desk.adopted(adapter._replace(version=version)))

    def end(self, worker: SimWorker, job: Add) -> None:
        worker.running.remove(job)
        stream = self.streams.get(job.key.job)
        if stream is not None and stream.attempt == job.key.attempt:
            del self.streams[job.key.job]
        if worker.desk._attempts.get((job.key.front, job.key.job)) == job.key.attempt:
            del worker.desk._attempts[job.key.front, job.key.job]
            worker.to_broker.append(Done(*job.key, "stop"))

    # And then calm.

    def teardown(self) -> None:
        """Files are good, everything arrives: all are answered, and every worker has what is offered and can be read.

        A version that some worker has stays offered when its files have changed: others cannot load it any more.
        """
        for source, content in self.files.items():
            self.files[source] = content or 99
        if not self.workers:
            self.add_worker()
        for _ in range(80):
            for worker in self.workers.values():
                while worker.from_broker:
                    self.to_worker(worker, worker.from_broker.popleft())
                while worker.reading:
                    self.take_in(worker, worker.reading.popleft())
                while worker.running:
                    self.end(worker, worker.running[0])
            self.wait(0.3 if self.now < GRACE_S else RETRY_S / 20)
        assert not self.asked, "a request that is never answered"
        assert not self.streams, "a job that never ends"
        offered = {(one.adapter.name, one.adapter.stamp): one.adapter for one in self.core._state.adapters.values()}
        everywhere = {one.key for worker in self.workers.values() for one in worker.desk._adapters.loaded}
        for worker in self.workers.values():
            held = {(one.name, one.stamp) for one in worker.desk._adapters.loaded}
            assert held <= offered.keys()
            for lacking in [one for stamped, one in offered.items() if stamped not in held]:
                assert lacking.version not in ("", f"v{self.files[lacking.source]}")
                assert lacking.key in everywhere
        assert not self.core._adapters._coming
        assert not self.core._adapters._leaving


class TestAdapterStorm(AdapterStorm.TestCase):
    settings = settings(max_examples=12, stateful_step_count=40, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestLongAdapterStorm(AdapterStorm.TestCase):
    settings = settings(TestAdapterStorm.settings, max_examples=60, stateful_step_count=60)
