"""The worker's desk: which jobs are here, and what to tell broker, fronts and engine about them.

Sans-IO: events and the time (seconds, any origin) in, actions out. Owns the links, the job table and the worker's
state; must not know sockets, torch, or how a token is made.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tokenyard.broker.config import BEAT_S, MAX_FINISH_BYTES
from tokenyard.broker.errors import TokenyardError, WireError
from tokenyard.broker.identity import Identity, incarnation_of
from tokenyard.broker.params import Params
from tokenyard.broker.wire import (
    FRONT_GONE,
    PLAIN,
    PROTOCOL,
    Abort,
    Ack,
    Adapter,
    AdapterFailed,
    AdapterKey,
    Beat,
    BrokerToWorker,
    Card,
    Delta,
    Done,
    Drain,
    Goodbye,
    LoadAdapter,
    Pause,
    Refused,
    Resume,
    Start,
    Stop,
    TokensUp,
    UnloadAdapter,
    Who,
    WorkerHello,
    WorkerJob,
    WorkerToBroker,
)
from tokenyard.workers.adapter_desk import AdapterDesk, Adopt, Retire
from tokenyard.workers.link import SendLink
from tokenyard.workers.scheduler import Held

LOADING_PATIENCE_MS = 60_000
"""While a model loads, a long call that holds the GIL (an import, a weight's copy) may stop even the I/O thread."""


class ToBroker(NamedTuple):
    message: WorkerToBroker


class ToFront(NamedTuple):
    front: bytes
    frames: list[bytes]


class Add(NamedTuple):
    """For the engine: begin this job, after `emitted_ids` where an earlier attempt got so far."""

    key: WorkerJob
    prompt_ids: bytes
    emitted_ids: bytes
    params: Params
    kind: str = "generate"
    adapter: AdapterKey = PLAIN


class Drop(NamedTuple):
    """For the engine: forget this job."""

    key: WorkerJob


class Exit(NamedTuple):
    """The process has nothing left to do. `code` is its exit status."""

    code: int
    words: str


Action = ToBroker | ToFront | Add | Drop | Adopt | Retire | Exit


def _batches(deltas: list[Delta]) -> Iterator[list[Delta]]:
    """Cut where more than MAX_FINISH_BYTES come together, as no delta is larger: a batch must be one message."""
    batch: list[Delta] = []
    num_bytes = 0
    for delta in deltas:
        size = _num_bytes(delta) if delta.extra else 0
        if num_bytes + size > MAX_FINISH_BYTES and batch:
            yield batch
            batch, num_bytes = [], 0
        batch.append(delta)
        num_bytes += size
    yield batch


def _num_bytes(delta: Delta) -> int:
    """Of what is packed in a delta's extra: all else is a few hundred bytes."""
    values = (one for extra in delta.extra.values() for one in (extra if isinstance(extra, list) else (extra,)))
    return sum(len(one) for one in values if isinstance(one, bytes))


class Desk:
    """One worker life: loading → ready → draining → Exit."""

    def __init__(
        self, me: Identity, pid: int, endpoint: str, name: str, capacity: int, now: float, key: str = ""
    ) -> None:
        """`key`: as in WorkerHello."""
        self._me = me
        self._inc = me.inc
        self._pid = pid
        self._endpoint = endpoint
        self._name = name
        self._key = key
        self._capacity = capacity
        self._state = "loading"
        self._card: Card | None = None
        self._adapters = AdapterDesk()
        self._attempts: dict[tuple[bytes, int], int] = {}
        """Living jobs: (front, job) to attempt. What is not in here is over, whatever the engine still says of it."""
        self._paused: dict[tuple[bytes, int], float] = {}
        """Of living jobs: streams whose clients have not kept up, and until when they skip steps."""
        self._links: dict[bytes, SendLink] = {}
        self._num_links = 0
        """Made so far: a front must tell a link made anew from the one it knew."""
        self._subscriptions: dict[bytes, int] = {}
        """Living connections a front: two for a moment while it reconnects."""
        self._beat_at = now
        self._num_resent = 0
        """Batches that fronts which are gone asked for again."""

    def held(self, now: float) -> Held:
        """Fronts and streams that do not keep up: their sequences skip steps."""
        streams = (WorkerJob(*key, self._attempts[key]) for key, until in self._paused.items() if until > now)
        return frozenset((*(front for front, link in self._links.items() if link.full), *streams))

    # The broker.

    def connected(self) -> list[Action]:
        """A broker is at the other end of the socket, perhaps a new one."""
        return [ToBroker(self._hello())]

    def from_broker(self, message: BrokerToWorker, now: float) -> list[Action]:
        if isinstance(message, Start):
            return self._start(message, now)
        if isinstance(message, Abort):
            return self._end(message.front, message.job, message.attempt, "aborted")
        if isinstance(message, Drain):
            return self.drain()
        if isinstance(message, Who):
            return [ToBroker(self._hello())]
        if isinstance(message, LoadAdapter):
            return [*self._adapters.load(message), ToBroker(self._hello())]
        if isinstance(message, UnloadAdapter):
            return [*self._adapters.unload(message), ToBroker(self._hello())]
        assert isinstance(message, Refused)
        return [Exit(2, f"the broker refuses this worker: {message.words}")]

    # The engine.

    def loaded(self, card: Card) -> list[Action]:
        """The model is ready to serve."""
        self._card = card
        if self._state == "loading":
            self._state = "ready"
        return [ToBroker(self._hello())]

    def stepped(self, outputs: list[tuple[WorkerJob, Delta]], now: float) -> list[Action]:
        """One step's tokens: one batch a front, or a few where they are many bytes, and Done for what has finished."""
        deltas: dict[bytes, list[Delta]] = {}
        done: list[Action] = []
        for key, delta in outputs:
            if self._attempts.get((key.front, key.job)) != key.attempt:
                continue
            deltas.setdefault(key.front, []).append(delta)
            if delta.finish is not None:
                self._strike((key.front, key.job))
                done.append(ToBroker(Done(key.front, key.job, key.attempt, delta.finish.reason)))
        sent: list[Action] = [
            ToFront(front, self._link(front, now).push(batch, now))
            for front, told in deltas.items()
            for batch in _batches(told)
        ]
        return sent + done

    def adopted(self, adapter: Adapter) -> list[Action]:
        """An adapter is loaded."""
        return [*self._adapters.adopted(adapter), ToBroker(self._hello())]

    def not_adopted(self, adapter: Adapter, error: TokenyardError) -> list[Action]:
        """An adapter cannot be loaded."""
        failed = AdapterFailed(adapter.name, adapter.stamp, error.code, error.words, error.param or "")
        return [ToBroker(failed)] if self._adapters.failed(adapter) else []

    # The fronts.

    def subscribed(self, front: bytes, now: float) -> list[Action]:
        self._subscriptions[front] = self._subscriptions.get(front, 0) + 1
        return [ToFront(front, self._link(front, now).subscribe(now))]

    def unsubscribed(self, front: bytes, now: float) -> None:
        left = self._subscriptions.get(front, 0) - 1
        if left > 0:
            self._subscriptions[front] = left
            return
        self._subscriptions.pop(front, None)
        if link := self._links.get(front):
            link.unsubscribe(now)

    def cut_off(self, now: float) -> None:
        """All connections of fronts have ended."""
        for front in list(self._subscriptions):
            self._subscriptions[front] = 1
            self.unsubscribed(front, now)

    def from_front(self, message: TokensUp, now: float) -> list[Action]:
        """Raises WireError where another speaks for the front: a false Ack would lose its tokens."""
        if incarnation_of(message.secret) != message.front:
            raise WireError(f"a {type(message).__name__} without the secret of its front", "identity")
        if message.worker != self._inc:
            return []
        if isinstance(message, Stop):
            attempt = self._attempts.get((message.front, message.job), 0)
            return self._end(message.front, message.job, attempt, "stopped")
        if isinstance(message, Pause):
            if (key := (message.front, message.job)) in self._attempts:
                self._paused[key] = now + message.ms / 1000
            return []
        link = self._links.get(message.front)
        if link is None:
            return []
        if isinstance(message, Resume):
            return [ToFront(message.front, link.resume(message.from_seq, now))]
        assert isinstance(message, Ack)
        return [ToFront(message.front, link.ack(message.upto, now))]

    # The clock and the user.

    def tick(self, step: int, load: dict[str, int], now: float, step_ms: int = 0) -> list[Action]:
        """Beat, remind idle fronts, free what belongs to fronts that are gone. `step_ms`: as in Beat."""
        actions: list[Action] = []
        for front, link in list(self._links.items()):
            if link.expired(now):
                actions += self._forget(front)
            elif frames := link.tick(now):
                actions.append(ToFront(front, frames))
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            patience_ms = LOADING_PATIENCE_MS if self._state == "loading" else 0
            resent = self._num_resent + sum(link.num_resent for link in self._links.values())
            figures = load | {"resent_batches": resent}
            beat = Beat(self._inc, self._state, step, patience_ms, self._jobs(), figures, step_ms)
            actions.append(ToBroker(beat))
        # The last batch may still be on its way, and its front has every right to ask for it again.
        if self._state == "draining" and not self._attempts and all(link.settled for link in self._links.values()):
            actions += [ToBroker(Goodbye(self._inc)), Exit(0, "drained")]
        return actions

    def leave(self) -> list[Action]:
        """End now: what runs goes on elsewhere, after all that was sent."""
        return [ToBroker(Goodbye(self._inc)), Exit(0, "told to end at once")]

    def drain(self) -> list[Action]:
        """Take no more jobs, finish those that run, then end."""
        if self._state == "draining":
            return []
        self._state = "draining"
        return [ToBroker(self._hello())]

    def _start(self, start: Start, now: float) -> list[Action]:
        key = (start.front, start.job)
        running = self._attempts.get(key, 0)
        if running >= start.attempt:
            return []
        actions = self._end(start.front, start.job, running, "fenced") if running else []
        # Also while draining: this Start crossed the news on its way, and the job is soonest done here.
        self._attempts[key] = start.attempt
        self._link(start.front, now)
        job = WorkerJob(start.front, start.job, start.attempt)
        adapter = AdapterKey(start.adapter, start.version)
        return [*actions, Add(job, start.prompt_ids, start.emitted_ids, start.params, start.kind, adapter)]

    def _end(self, front: bytes, job: int, attempt: int, reason: str) -> list[Action]:
        """End a living job of this attempt or an older one, without a word to its front."""
        running = self._attempts.get((front, job))
        if running is None or running > attempt:
            return []
        self._strike((front, job))
        return [Drop(WorkerJob(front, job, running)), ToBroker(Done(front, job, running, reason))]

    def _strike(self, key: tuple[bytes, int]) -> None:
        """This job lives no more."""
        del self._attempts[key]
        self._paused.pop(key, None)

    def _forget(self, front: bytes) -> list[Action]:
        self._num_resent += self._links.pop(front).num_resent
        jobs = [job for job in self._jobs() if job.front == front]
        return [action for job in jobs for action in self._end(front, job.job, job.attempt, FRONT_GONE)]

    def _link(self, front: bytes, now: float) -> SendLink:
        if front not in self._links:
            self._links[front] = SendLink(self._inc, now, self._num_links)
            self._num_links += 1
        return self._links[front]

    def _jobs(self) -> list[WorkerJob]:
        return [WorkerJob(front, job, attempt) for (front, job), attempt in self._attempts.items()]

    def _hello(self) -> WorkerHello:
        card = self._card and self._card._replace(adapters=self._adapters.loaded)
        return WorkerHello(
            PROTOCOL,
            self._inc,
            self._pid,
            self._state,
            self._endpoint,
            self._capacity,
            card,
            self._jobs(),
            self._name,
            self._key,
            self._me.secret,
        )

    def check(self) -> None:
        """Invariants, for tests."""
        assert (self._card is None) <= (self._state != "ready")
        assert all(front in self._links for front, _ in self._attempts)
        assert self._paused.keys() <= self._attempts.keys()
        assert all(count > 0 for count in self._subscriptions.values())
        for link in self._links.values():
            link.check()
        self._adapters.check()
