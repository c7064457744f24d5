"""The front's client of the pool: one socket to the broker, one to each worker, on the event loop.

Performs what Streams and Inbox decide, and hands tokens to each job's sink straight from the socket callback. Must not
know HTTP or text.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import zmq

from tokenyard.broker import prefix
from tokenyard.broker.codec import decode, encode, pack_ids
from tokenyard.broker.config import (
    BEAT_S,
    MAX_MESSAGE_BYTES,
    RECONNECT_MAX_MS,
    RECONNECT_MS,
    ROUTER_HWM,
    SILENCE_S,
    RunDir,
)
from tokenyard.broker.errors import TokenyardError, WireError
from tokenyard.broker.wire import (
    INC_BYTES,
    PROTOCOL,
    Accepted,
    Answer,
    Card,
    Finish,
    FrontHello,
    Goodbye,
    Idle,
    LinkUp,
    Lost,
    Message,
    Ping,
    Placed,
    Refused,
    Reject,
    Status,
    Stop,
    Tokens,
    Welcome,
    Who,
    WorkerDown,
    WorkerInfo,
    WorkerUp,
)
from tokenyard.http.figures import Figures
from tokenyard.http.inbox import Inbox
from tokenyard.http.streams import Action, Deliver, Fail, JobRequest, Send, Streams

__all__ = ["JobRequest", "JobSink", "Pool"]

log = logging.getLogger(__name__)

TICK_S = 0.02
"""Finer than every timer of streams and inboxes (20 ms and 50 ms); an idle tick costs some 10 µs."""
LINGER_S = 0.2
"""A dead worker's link is read for so long before it is closed: ten times what draining takes."""
MAX_PREFIX_KEYS = 128
"""2,048 tokens at blocks of 16: enough to tell shared system prompts apart, 2 kB on the wire."""


class JobSink(Protocol):
    """Takes one job's tokens, on the event loop's thread. Exactly one finish or failure comes, as the last call."""

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        """New tokens, in order, each once. The first call may be empty: the job runs."""

    def failed(self, error: TokenyardError) -> None:
        """The job ends without an answer."""


class _Link:
    """One worker's socket and inbox."""

    def __init__(self, worker: WorkerInfo, socket: "zmq.Socket[bytes]", inbox: Inbox) -> None:
        self.worker = worker
        self.socket = socket
        self.inbox = inbox


class Pool:
    """Knows the pool's models, runs jobs on it. One per front process; all calls on the event loop's thread."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._inc = secrets.token_bytes(INC_BYTES)
        self.figures = Figures()
        """What requests count and time."""
        self._streams = Streams()
        self._streams.on_resume = lambda model: self.figures.count("request_resumes", model)
        self._questions: dict[int, asyncio.Future[dict[str, Any]]] = {}
        """Those for the pool's state that the broker has not answered, by their number."""
        self._next_question = 0
        self._sinks: dict[int, JobSink] = {}
        self._links: dict[bytes, _Link] = {}
        self._cards: dict[str, Card] = {}
        """By id. Kept when a model's last worker dies: the broker queues its jobs until another is up."""
        self._up: set[bytes] = set()
        """Workers that the broker has told us of and not taken back."""
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
        self._broker = self._connect(zmq.DEALER, self._run_dir.front_endpoint)
        self._monitor = self._broker.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._loop.add_reader(self._broker.fileno(), self._read_broker)
        self._loop.add_reader(self._monitor.fileno(), self._read_monitor)
        self._read_monitor()
        self._tick()

    async def close(self) -> None:
        """Leave the pool; whatever still runs is cancelled."""
        for job in list(self._sinks):
            self.cancel(job)
        self._tell_broker(Goodbye(self._inc))
        self._timer.cancel()
        self._up.clear()
        self._close_dead_links()
        for socket in (self._broker, self._monitor):
            self._loop.remove_reader(socket.fileno())
        self._broker.disable_monitor()
        self._context.destroy(linger=100)

    async def wait_welcomed(self, seconds: float) -> None:
        """Return once a broker has told what it serves, or when the time is up."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._welcomed.wait(), seconds)

    async def status(self, seconds: float) -> dict[str, Any] | None:
        """The pool as the broker sees it, workers' loads and all; None where it does not answer in this time."""
        req = self._next_question = self._next_question + 1
        answer = self._questions[req] = self._loop.create_future()
        try:
            self._tell_broker(Status(req))
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            return None
        finally:
            del self._questions[req]

    @property
    def connected(self) -> bool:
        """A broker has welcomed us."""
        return self._epoch is not None

    @property
    def ready(self) -> bool:
        """At least one worker can take jobs."""
        return self.connected and bool(self._up)

    @property
    def num_workers(self) -> int:
        """Workers that can take jobs."""
        return len(self._up)

    def cards(self) -> list[Card]:
        """Models that can be asked for."""
        return list(self._cards.values())

    def find(self, name: str) -> Card | None:
        """By id, name, or either with `@` and the commit, or the revision that the model was asked for by."""
        for card in self._cards.values():
            revisions = [one for one in (card.commit, card.revision) if one]
            if name in card.names or name in (f"{one}@{revision}" for one in card.names for revision in revisions):
                return card
        return None

    def submit(self, request: JobRequest, sink: JobSink) -> int:
        """Begin a job; its sink is called from now on, never before this returns. Returns the job's number."""
        card = self._cards.get(request.model)
        packed = pack_ids(request.prompt_ids)
        keys: list[bytes] = []
        if card is not None:
            root = prefix.salted(prefix.root_key(card.commit, card.dtype), request.params.cache_salt)
            keys = prefix.chain(root, packed, card.block_size, MAX_PREFIX_KEYS)
        job, actions = self._streams.submit(request, packed, keys, self._loop.time())
        self._sinks[job] = sink
        self._do(actions)
        return job

    def cancel(self, job: int) -> None:
        """Stop a job: its sink hears nothing more. Harmless when it is over already."""
        if self._sinks.pop(job, None) is not None:
            self._do(self._streams.cancel(job))

    # The broker.

    def _read_broker(self) -> None:
        while not self._broker.closed:
            try:
                self._from_broker(decode(self._broker.recv(zmq.NOBLOCK)))
            except zmq.Again:
                return
            except WireError as error:
                log.warning("dropped a frame from the broker: %s", error)

    def _from_broker(self, message: Message) -> None:
        now = self._loop.time()
        if isinstance(message, Accepted):
            self._streams.accepted(message.job, message.attempt)
        elif isinstance(message, Placed):
            self._streams.accepted(message.job, message.attempt, message.worker)
        elif isinstance(message, Reject):
            self._do(self._streams.rejected(message))
        elif isinstance(message, Lost):
            self._streams.lost(message, now)
        elif isinstance(message, Welcome):
            self._welcome(message, now)
        elif isinstance(message, WorkerUp):
            self._worker_up(message.worker)
        elif isinstance(message, WorkerDown):
            self._up.discard(message.inc)
            self._loop.call_later(LINGER_S, self._close_dead_links)
        elif isinstance(message, Who):
            self._hello()
        elif isinstance(message, Answer):
            if (question := self._questions.get(message.req)) and not question.done():
                question.set_result(message.body)
        elif isinstance(message, Refused):
            log.error("the broker refuses this front: %s", message.words)
        else:
            raise WireError(f"{type(message).__name__} is not for a front")

    def _welcome(self, message: Welcome, now: float) -> None:
        if self._epoch not in (None, message.epoch):
            self._streams.new_broker(now)
            self._up.clear()
            # Workers take a moment to find the new broker; those that died meanwhile never will.
            self._loop.call_later(SILENCE_S, self._close_dead_links)
        self._epoch = message.epoch
        for worker in message.workers:
            self._worker_up(worker)
        self._welcomed.set()
        self._do(self._streams.tick(now))

    def _hello(self) -> None:
        self._tell_broker(FrontHello(PROTOCOL, self._inc, os.getpid(), self._streams.claims()))

    def _read_monitor(self) -> None:
        """Each finished handshake is a broker that may never have heard of us."""
        while self._monitor.poll(0):
            self._monitor.recv_multipart(zmq.NOBLOCK)
            self._hello()

    def _tell_broker(self, message: Message) -> None:
        try:
            self._broker.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # No broker: submits are repeated, and a hello brings all the rest.
            return
        self._look_again(self._read_broker)

    # The workers.

    def _worker_up(self, worker: WorkerInfo) -> None:
        known = self._cards.get(worker.card.names[0])
        self._cards[worker.card.names[0]] = worker.card
        if known != worker.card and self.on_card is not None:
            self.on_card(worker.card)
        self._up.add(worker.inc)
        if worker.inc in self._links:
            return
        socket = self._connect(zmq.XSUB, worker.endpoint)
        socket.send(b"\x01" + self._inc)
        link = _Link(worker, socket, Inbox(self._inc, worker.inc, self._loop.time()))
        self._links[worker.inc] = link
        self._loop.add_reader(socket.fileno(), self._read_link, link)
        self._look_again(self._read_link, link)

    def _close_dead_links(self) -> None:
        for inc in self._links.keys() - self._up:
            link = self._links.pop(inc)
            self._loop.remove_reader(link.socket.fileno())
            link.socket.close(linger=0)

    def _read_link(self, link: _Link) -> None:
        """All that waits on one worker's socket: its descriptor is edge-triggered."""
        if link.socket.closed:
            return
        while True:
            try:
                frame = link.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._from_worker(link, decode(frame[INC_BYTES:]))
            except WireError as error:
                log.warning("dropped a frame from worker %s: %s", link.worker.inc.hex(), error)

    def _from_worker(self, link: _Link, message: Message) -> None:
        if not isinstance(message, LinkUp | Tokens | Idle):
            raise WireError(f"{type(message).__name__} is not for the token plane")
        now = self._loop.time()
        deltas, up, renewed = link.inbox.receive(message, now)
        if renewed:
            self._streams.forgotten(link.worker.inc, now)
        for delta in deltas:
            self._do(self._streams.delta(link.worker.inc, delta, now))
        for reply in up:
            self._send_up(link, encode(reply))

    def _send_up(self, link: _Link, frame: bytes) -> None:
        """Acks, resumes and stops are few, cumulative and repeated: one that finds no room is not missed."""
        try:
            link.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return
        self._look_again(self._read_link, link)

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
            elif link := self._links.get(action.worker):
                self._send_up(link, encode(Stop(self._inc, action.worker, action.job)))

    def _look_again(self, read: Callable[..., None], *arguments: _Link) -> None:
        """A send may eat the edge that would have woken the reader."""
        self._loop.call_soon(read, *arguments)

    def _tick(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(TICK_S, self._tick)
        if now >= self._ping_at:
            self._ping_at = now + BEAT_S
            self._tell_broker(Ping(self._inc))
        self._do(self._streams.tick(now))
        for link in list(self._links.values()):
            for reply in link.inbox.tick(now):
                self._send_up(link, encode(reply))

    def _connect(self, kind: int, endpoint: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.linger = 0
        # A link is bounded by its window; the broker's by what a ROUTER takes.
        socket.sndhwm = socket.rcvhwm = 0 if kind == zmq.XSUB else ROUTER_HWM
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        if kind == zmq.DEALER:
            # Nothing may pile up for a dead broker and greet the next one.
            socket.immediate = True
        socket.connect(endpoint)
        return socket
