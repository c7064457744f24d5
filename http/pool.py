"""The front's client of the pool: one socket to the broker, one to each worker, on the event loop.

Performs what Streams and Inbox decide, and hands tokens to each job's sink straight from the socket callback. Must not
know HTTP or text.
"""

import asyncio
import os
import secrets
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol

import zmq

from tokenyard.broker import prefix
from tokenyard.broker.codec import decode, encode, pack_ids
from tokenyard.broker.config import BEAT_S, PAUSE_S, SILENCE_S
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import TokenyardError, WireError
from tokenyard.broker.identity import SECRET_BYTES, Identity
from tokenyard.broker.line import BrokerLine
from tokenyard.broker.sockets import waiting
from tokenyard.broker.wire import (
    PROTOCOL,
    Accepted,
    Answer,
    Card,
    Delta,
    Finish,
    FrontHello,
    Goodbye,
    LoadFailed,
    Loading,
    Lost,
    Message,
    Ping,
    Placed,
    Refused,
    Reject,
    Status,
    UnloadModel,
    Want,
    Welcome,
    Who,
    WorkerDown,
    WorkerInfo,
    WorkerUp,
)
from tokenyard.http.adapters import adapter_of
from tokenyard.http.cork import Cork
from tokenyard.http.figures import Figures
from tokenyard.http.links import Links
from tokenyard.http.loads import Loads
from tokenyard.http.options import LOAD_TIMEOUT_S
from tokenyard.http.questions import Questions
from tokenyard.http.roster import Roster
from tokenyard.http.streams import Action, Deliver, Fail, JobRequest, Missing, Send, Streams

__all__ = ["JobRequest", "JobSink", "Pool"]

TICK_S = 0.02
"""Finer than every timer of streams and inboxes (20 ms and 50 ms); an idle tick costs some 10 µs."""
PAUSE_MS = round(1000 * PAUSE_S)
LINGER_S = 0.2
"""A dead worker's link stays open for so long: over ten times what it takes to read what is left in it."""
MAX_PREFIX_KEYS = 128
"""2,048 tokens at blocks of 16: enough to tell shared system prompts apart, 2 kB on the wire."""


class JobSink(Protocol):
    """Takes one job's tokens, on the event loop's thread. Exactly one finish or failure comes, as the last call."""

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        """New tokens, in order, each once. The first call may be empty: the job runs."""

    def failed(self, error: TokenyardError) -> None:
        """The job ends without an answer."""


class Pool:
    """Knows the pool's models, runs jobs on it. One per front process; all calls on the event loop's thread."""

    def __init__(self, address: BrokerAddress, load_timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """`load_timeout_s`: how long one may wait for a model."""
        self._address = address
        self._load_timeout_s = load_timeout_s
        self._me = Identity.of(secrets.token_bytes(SECRET_BYTES))
        self.figures = Figures()
        """What requests count and time."""
        self.cork = Cork()
        """Held while all that came for one stream is told."""
        self._streams = Streams()
        self._streams.on_resume = lambda model: self.figures.count("request_resumes", model)
        self.loads = Loads(load_timeout_s, self.figures, self._tell_broker)
        """Models that somebody here waits for."""
        self._questions = Questions(self._tell_broker)
        self._held: dict[int, int] = {}
        """Jobs that wait for their model, and their number as waiters."""
        self._sinks: dict[int, JobSink] = {}
        self._paused: set[int] = set()
        """Jobs whose clients do not keep up."""
        self._roster = Roster()
        self._epoch: bytes | None = None
        """The broker that welcomed us."""
        self._welcomed = asyncio.Event()
        self._ping_at = 0.0
        self.on_card: Callable[[Card], None] | None = None
        """Called when a model is first seen, or has changed."""

    async def start(self) -> None:
        """Connect; returns at once, `ready` tells when there is a model."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        told = (self._tokens, self._renewed, self._unreachable)
        self._links = Links(self._me, self._context, self._address, *told, self.figures)
        self._line = BrokerLine(self._context, self._address, self._address.front)
        self._broker = self._line.socket
        self._loop.add_reader(self._broker.fileno(), self._read_broker)
        self._loop.add_reader(self._line.monitor.fileno(), self._tend_line)
        self._tend_line()
        self._tick()

    async def close(self) -> None:
        """Leave the pool; whatever still runs is cancelled."""
        for job in list(self._sinks):
            self.cancel(job)
        self._tell_broker(Goodbye(self._me.inc))
        self._timer.cancel()
        self._links.close_all_but(())
        for socket in (self._broker, self._line.monitor):
            self._loop.remove_reader(socket.fileno())
        self._broker.disable_monitor()
        self._context.destroy(linger=100)

    async def wait_welcomed(self, seconds: float) -> None:
        """Return once a broker has told what it serves, or when the time is up."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._welcomed.wait(), seconds)

    async def status(self, seconds: float) -> dict[str, Any] | None:
        """The pool as the broker sees it, workers' loads and all; None where it does not answer in this time."""
        answer = await self._questions.ask(Status, seconds)
        return answer.body if answer else None

    async def ask(self, question: Callable[[int], Message], seconds: float) -> Answer | None:
        """The broker's answer to the message that `question` makes of a number; None where none comes in this time."""
        return await self._questions.ask(question, seconds)

    async def want(self, want: Want) -> Card:
        """The model's card, once it is up. Raises TokenyardError where it cannot be had."""
        if not self.is_up(want.model):
            await self.loads.wait(want)
        card = self._roster.card_of(want.model)
        assert card is not None
        return card

    async def unload(self, model: str) -> None:
        """Have all workers of a model dismissed; returns once none is left. Raises TokenyardError with the reason."""
        answer = await self._questions.ask(lambda req: UnloadModel(req, model), self._load_timeout_s)
        if answer is None:
            raise TokenyardError("pool_unavailable", f"the broker did not unload {model} in {self._load_timeout_s:g} s")
        if answer.error:
            code = "invalid_value" if self.is_up(model) else "model_not_found"
            raise TokenyardError(code, answer.error, "model")

    @property
    def connected(self) -> bool:
        """A broker has welcomed us."""
        return self._epoch is not None

    @property
    def ready(self) -> bool:
        """At least one worker can take jobs."""
        return self.connected and bool(self._roster.workers)

    @property
    def num_workers(self) -> int:
        """Workers that can take jobs."""
        return len(self._roster.workers)

    def cards(self) -> list[Card]:
        """Models that are up, or were."""
        return self._roster.cards()

    def adapter_cards(self) -> list[Card]:
        """One for each adapter that may be asked for like a model."""
        return self._roster.adapter_cards()

    def is_up(self, model: str) -> bool:
        """Whether a worker serves the model of this id."""
        return self._roster.is_up(model)

    def find(self, name: str) -> Card | None:
        """By whatever requests may call a model or an adapter."""
        return self._roster.find(name)

    def submit(self, request: JobRequest, sink: JobSink) -> int:
        """Begin a job; its sink is called from now on, never before this returns. Returns the job's number."""
        packed = pack_ids(request.prompt_ids)
        keys = self._prefix_keys(request, packed)
        job, actions = self._streams.submit(request, packed, keys, self._loop.time())
        self._sinks[job] = sink
        self._do(actions)
        return job

    def _prefix_keys(self, request: JobRequest, packed: bytes) -> list[bytes]:
        """None where it is not known what will compute it."""
        card = self._roster.card_of(request.model)
        adapter = adapter_of(card) if card else None
        if card is None or (adapter is not None and not adapter.version):
            return []
        root = prefix.root_key(card.commit, card.dtype, adapter.key.text if adapter else "")
        return prefix.chain(prefix.salted(root, request.params.cache_salt), packed, card.block_size, MAX_PREFIX_KEYS)

    def cancel(self, job: int) -> None:
        """Stop a job: its sink hears nothing more. Harmless when it is over already."""
        if (waiter := self._held.pop(job, None)) is not None:
            self.loads.leave(waiter)
        if self._sinks.pop(job, None) is not None:
            self._do(self._streams.cancel(job))

    def pause(self, job: int, *, on: bool) -> None:
        """Have no more of a job computed than is on its way already, wherever it runs; or have it go on."""
        (self._paused.add if on else self._paused.discard)(job)
        if worker := self._streams.worker_of(job):
            self._links.pause(worker, job, PAUSE_MS if on else 0)

    # The broker.

    def _read_broker(self) -> None:
        frame = None
        for frame in () if self._broker.closed else waiting(self._broker.recv):
            try:
                self._from_broker(decode(frame))
            except WireError as error:
                self._links.refused("the broker", error)
        if frame is not None:
            self._loop.call_soon(self._read_broker)  # its descriptor is edge-triggered, and more may wait

    def _from_broker(self, message: Message) -> None:
        now = self._loop.time()
        if isinstance(message, Accepted):
            self._streams.accepted(message.job, message.attempt)
        elif isinstance(message, Placed):
            self._streams.accepted(message.job, message.attempt, message.worker)
            if words := self._links.beyond.get(message.worker):
                self._unreachable(message.worker, words)
        elif isinstance(message, Reject):
            self._do(self._streams.rejected(message, now))
        elif isinstance(message, Lost):
            self._do(self._streams.lost(message, now))
        elif isinstance(message, Welcome):
            self._welcome(message, now)
        elif isinstance(message, WorkerUp):
            self._worker_up(message.worker)
        elif isinstance(message, WorkerDown):
            # The kernel took milliseconds to take it down: what it had sent is here, and its streams go on after that.
            self._links.read(message.inc)
            self._roster.go(message.inc)
            self._close_dead_links_in(LINGER_S)
        elif isinstance(message, Who):
            self._hello()
        elif isinstance(message, Answer):
            self._questions.hear(message)
        elif isinstance(message, Loading | LoadFailed):
            self.loads.hear(message)
        elif isinstance(message, Refused):
            self._line.refused(message.words)
        else:
            raise WireError(f"{type(message).__name__} is not for a front", "role")

    def _welcome(self, message: Welcome, now: float) -> None:
        if self._epoch not in (None, message.epoch):
            self._streams.new_broker(now)
            self._roster.all_go()
            # Workers take a moment to find the new broker; those that died meanwhile never will.
            self._close_dead_links_in(SILENCE_S)
        self._epoch = message.epoch
        for worker in message.workers:
            self._worker_up(worker)
        if not message.more:
            self._welcomed.set()
        self._do(self._streams.tick(now))
        self.loads.welcomed()

    def _hello(self) -> None:
        self._tell_broker(FrontHello(PROTOCOL, self._me.inc, os.getpid(), self._streams.claims(), self._me.secret))

    def _tend_line(self) -> None:
        """Each finished handshake is a broker that may never have heard of us."""
        if self._line.tend(self._loop.time()):
            self._hello()

    def _tell_broker(self, message: Message) -> None:
        try:
            self._broker.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # No broker: submits are repeated, and a hello brings all the rest.
            return
        # A send may eat the edge that would have woken the reader.
        self._loop.call_soon(self._read_broker)

    # The workers.

    def _tokens(self, worker: bytes, batches: list[list[Delta]]) -> None:
        """Give the sinks what is theirs. Where we are behind, what several batches have for one stream is one write."""
        now = self._loop.time()
        if len(batches) == 1:
            for delta in batches[0]:
                self._do(self._streams.delta(worker, delta, now))
            return
        # Stream by stream, too, since each of them lies elsewhere in memory.
        of_job: defaultdict[int, list[Delta]] = defaultdict(list)
        for delta in chain.from_iterable(batches):
            of_job[delta.job].append(delta)
        for deltas in of_job.values():
            with self.cork:
                for delta in deltas:
                    self._do(self._streams.delta(worker, delta, now))

    def _renewed(self, worker: bytes) -> None:
        self._streams.forgotten(worker, self._loop.time())

    def _unreachable(self, worker: bytes, words: str) -> None:
        self._do(self._streams.unreachable(worker, words))

    def _worker_up(self, worker: WorkerInfo) -> None:
        if self._roster.come(worker) and self.on_card is not None:
            self.on_card(worker.card)
        self._links.open(worker)
        self.loads.up(worker.card.names[0])

    def _close_dead_links_in(self, seconds: float) -> None:
        self._loop.call_later(seconds, lambda: self._links.close_all_but(self._roster.workers))

    # Performing.

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                sink = self._sinks.get(action.job) if action.finish is None else self._sinks.pop(action.job, None)
                if sink is not None:
                    sink.delta(action.token_ids, action.extra, action.finish)
            elif isinstance(action, Fail):
                if failed := self._sinks.pop(action.job, None):
                    # Not within submit(): its caller has no job number yet.
                    self._loop.call_soon(failed.failed, action.error)
            elif isinstance(action, Send):
                self._tell_broker(action.message)
            elif isinstance(action, Missing):
                self._bring_back(action)
            else:
                self._links.stop(action.worker, action.job)

    def _bring_back(self, missing: Missing) -> None:
        """Have a model loaded again that the broker has forgotten; without a way to, the job fails."""

        def settled(error: TokenyardError | None) -> None:
            self._held.pop(missing.job, None)
            if error is None:
                self._streams.found(missing.job, self._loop.time())
            else:
                self._do(self._streams.give_up(missing.job, error))

        model = self._roster.model_of(missing.model)
        want = self.loads.known(model)
        if self.is_up(model):  # the broker had not heard of its worker yet
            settled(None)
        elif want is None:
            settled(missing.error)
        else:
            try:
                self._held[missing.job] = self.loads.begin(want, settled)
            except TokenyardError as error:
                settled(error)

    def _tick(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(TICK_S, self._tick)
        if now >= self._ping_at:
            self._ping_at = now + BEAT_S
            self._tell_broker(Ping(self._me.inc))
            self._tend_line()
            self._links.look(self._roster.workers)
            self._paused &= self._sinks.keys()
            for job in self._paused:
                self.pause(job, on=True)
        self._do(self._streams.tick(now))
        self.loads.tick()
        self._links.tick(now)
