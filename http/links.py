"""The front's token links: one socket to each worker, read on the event loop as soon as anything comes.

Performs what each Inbox decides. Must not know jobs: deltas go to whoever owns them.
"""

import asyncio
import logging
from collections.abc import Callable, Collection

import zmq

from tokenyard.broker import logs
from tokenyard.broker.codec import decode, encode
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError, WireError
from tokenyard.broker.identity import Identity
from tokenyard.broker.sockets import dial
from tokenyard.broker.wire import INC_BYTES, Delta, Idle, LinkUp, Message, Pause, Stop, Tokens, WorkerInfo
from tokenyard.http.figures import Figures
from tokenyard.http.inbox import Inbox, Received

REACH_LOOKS = 10
"""At one a beat, a handshake and its repeat: who is up for so long without a link cannot be reached."""

COMPLAIN_S = 1.0
"""Between two log lines about bad frames: a flood of them must not become a flood of lines."""

log = logging.getLogger(__name__)


MAX_DELTAS = 4096
"""Of one worker's, taken in one go: some 20 ms of a front that is behind, after which others have their turn."""


class _Link:
    """One worker's socket and inbox."""

    def __init__(self, worker: WorkerInfo, socket: "zmq.Socket[bytes]", inbox: Inbox) -> None:
        self.worker = worker
        self.socket = socket
        self.inbox = inbox
        self.again: asyncio.Handle | None = None
        """The next look at the socket, where one is due before it wakes its reader."""
        self.num_looks = 0
        """So far; not seconds, in which this process may have been stopped."""


class Links:
    """One front's; all calls on the event loop's thread."""

    def __init__(
        self,
        me: Identity,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: BrokerAddress,
        take: Callable[[bytes, list[list[Delta]]], None],
        renewed: Callable[[bytes], None],
        unreachable: Callable[[bytes, str], None],
        figures: Figures,
    ) -> None:
        """`me`: the front. `take` is called with a worker's incarnation and those of its batches that came at once,
        each in order and once; `renewed` with a worker whose tokens of before are lost; `unreachable` with one that no
        token can come from, and why.
        """
        self._me = me
        self._context = context
        self._take = take
        self._renewed = renewed
        self._unreachable = unreachable
        self._figures = figures
        self._complaints = logs.Complaints(log, COMPLAIN_S)
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._links: dict[bytes, _Link] = {}
        self._unopened: dict[bytes, WorkerInfo] = {}
        """Workers to which there is no socket."""
        self.beyond: dict[bytes, str] = {}
        """Workers that cannot be reached, and why."""

    def open(self, worker: WorkerInfo) -> None:
        """Harmless where it is open."""
        if worker.inc in self._links:
            return None
        try:
            self._address.refuse_foreign_ipc(worker.endpoint)
            socket = dial(self._context, zmq.XSUB, worker.endpoint, self._address.keys, worker.key)
        except SetupError as error:
            self._unopened[worker.inc] = worker
            return self._give_up(worker, str(error))
        self._unopened.pop(worker.inc, None)
        for topic in (self._me.inc, self._me.proof_topic):
            socket.send(b"\x01" + topic)
        link = self._links[worker.inc] = _Link(worker, socket, Inbox(self._me, worker.inc, self._loop.time()))
        self._loop.add_reader(socket.fileno(), self._read, link)
        self._read_soon(link)
        return None

    def look(self, living: Collection[bytes]) -> None:
        """To be called each beat. A worker on tcp that stays without a link has a firewall before it, or has told us an
        address that is not its own. One without a socket gets another try: perhaps fewer files are open now.
        """
        self._unopened = {inc: worker for inc, worker in self._unopened.items() if inc in living}
        for worker in list(self._unopened.values()):
            self.open(worker)
        for inc in self.beyond.keys() - living:
            del self.beyond[inc]
        for link in self._links.values():
            link.num_looks += 1
            if link.inbox.up:
                self.beyond.pop(link.worker.inc, None)
            elif link.num_looks > REACH_LOOKS and link.worker.inc in living:
                self._give_up(link.worker, f"nobody answers at {link.worker.endpoint}")

    def refused(self, sender: str, error: WireError) -> None:
        """What came from there is no message."""
        self._figures.count("refused_messages", "front", error.reason)
        self._complaints.say(f"dropped a frame from {sender}: {error}", self._loop.time())

    def _give_up(self, worker: WorkerInfo, words: str) -> None:
        if self.beyond.get(worker.inc) != words:
            log.error("worker %s cannot be reached: %s", worker.inc.hex(), words)
        self.beyond[worker.inc] = words
        self._unreachable(worker.inc, words)

    def close_all_but(self, living: Collection[bytes]) -> None:
        for inc in self._links.keys() - living:
            link = self._links.pop(inc)
            self._loop.remove_reader(link.socket.fileno())
            link.socket.close(linger=0)

    def read(self, worker: bytes) -> None:
        """Take now what has come from it."""
        if link := self._links.get(worker):
            self._read(link)

    def stop(self, worker: bytes, job: int) -> None:
        """Tell a worker that a job needs no more tokens."""
        if link := self._links.get(worker):
            self._send(link, Stop(self._me.inc, worker, job, self._me.secret))

    def pause(self, worker: bytes, job: int, ms: int) -> None:
        """Tell a worker to compute nothing for a job during so long; 0: to go on."""
        if link := self._links.get(worker):
            self._send(link, Pause(self._me.inc, worker, job, ms, self._me.secret))

    def tick(self, now: float) -> None:
        for link in list(self._links.values()):
            for reply in link.inbox.tick(now):
                self._send(link, reply)

    def _read(self, link: _Link) -> None:
        """What waits on one worker's socket, whose descriptor is edge-triggered, up to a bound."""
        if link.again is not None:
            link.again.cancel()
            link.again = None
        if link.socket.closed:
            return
        worker = link.worker.inc
        batches: list[list[Delta]] = []
        num_left = MAX_DELTAS
        while num_left > 0 and (received := self._receive(link)) is not None:
            if received.renewed:
                self._take(worker, batches)
                batches = []
                self._renewed(worker)
            if received.deltas:
                batches.append(received.deltas)
            num_left -= len(received.deltas) or 1
        if num_left <= 0:
            self._read_soon(link)
        if batches:
            self._take(worker, batches)

    def _read_soon(self, link: _Link) -> None:
        """Once in the loop's next round, however often it is asked."""
        if link.again is None:
            link.again = self._loop.call_soon(self._read, link)

    def _receive(self, link: _Link) -> Received | None:
        """What the next frame gives; None if no frame waits."""
        try:
            frame = link.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        try:
            message = decode(frame[INC_BYTES:])
            if not isinstance(message, LinkUp | Tokens | Idle):
                raise WireError(f"{type(message).__name__} is not for the token plane", "role")
        except WireError as error:
            self.refused(f"worker {link.worker.inc.hex()}", error)
            return Received([], [])
        received = link.inbox.receive(message, self._loop.time())
        for reply in received.up:
            self._send(link, reply)
        return received

    def _send(self, link: _Link, message: Message) -> None:
        """Acks, resumes and stops are few, cumulative and repeated: one that finds no room is not missed."""
        try:
            link.socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return
        # A send may eat the edge that would have woken the reader.
        self._read_soon(link)
