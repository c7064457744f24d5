"""The front's end of one token link: puts batches in order, notices gaps, and asks for what is missing.

Sans-IO: takes messages and the time (seconds, any origin), returns deltas in order and messages to send upstream. One
Inbox per worker incarnation. Must not know sockets, jobs or HTTP; fencing of old attempts is the pool's business.
"""

from typing import NamedTuple

from tokenyard.broker.config import ACK_BATCHES, ACK_S, RESUME_S
from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import Ack, Delta, Idle, LinkUp, Resume, Tokens, TokensDown

RESUME_SLOW_S = 1.0
"""Before LinkUp there may be nobody to answer: ask again at this pace, in case the LinkUp itself was lost."""


class Received(NamedTuple):
    """What one event gave: deltas to deliver, in order, and messages to send up the link."""

    deltas: list[Delta]
    up: list[Resume | Ack]
    renewed: bool = False
    """The worker has begun a new link: it had freed all that it did for this front, whose tokens are lost."""


class Inbox:
    """Expects batch `expected` next; nothing else is delivered."""

    def __init__(self, front: Identity, worker: bytes, now: float) -> None:
        self._front = front
        self._worker = worker
        self.expected = 0
        self._link: int | None = None
        """The number of the worker's link; None: not yet heard."""
        self._acked = 0
        self._ack_at: float | None = None
        """When the batches since the last ack are acknowledged at the latest."""
        self._resume_at = now
        """Not before this time may the next Resume go out."""
        self._behind = False
        """Something is missing, or a Resume has had no answer yet: it is repeated until one comes."""
        self.up = False
        """LinkUp was seen: the worker knows of us."""
        self._idle_ahead = 0
        """Idles in a row that spoke of batches we do not have: two mean that the tail was lost."""

    def receive(self, message: TokensDown, now: float) -> Received:
        """One message from the worker."""
        if isinstance(message, Tokens):
            return self._tokens(message, now)
        if isinstance(message, LinkUp):
            return self._link_up(message, now)
        assert isinstance(message, Idle)
        if message.next <= self.expected:
            self._behind, self._idle_ahead = False, 0
            # The worker still waits for an ack that must have been lost.
            self._ack_at = now
            return Received([], self.tick(now))
        self._idle_ahead += 1
        if self._idle_ahead >= 2:
            self._behind = True
        return Received([], self.tick(now))

    def tick(self, now: float) -> list[Resume | Ack]:
        """What is due at this time."""
        due: list[Resume | Ack] = []
        if (self._behind or not self.up) and now >= self._resume_at:
            due.append(self._resume(now))
        if self._ack_at is not None and now >= self._ack_at:
            due.append(self._ack())
        return due

    def _link_up(self, message: LinkUp, now: float) -> Received:
        known, self._link = self._link, message.link
        renewed = known is not None and message.link != known
        if renewed:
            self.expected = self._idle_ahead = 0
        self.up, self._behind = True, True
        # A worker that was given up and came back goes on with its numbers; what it forgot, the streams notice.
        self.expected = max(self.expected, message.oldest)
        return Received([], [self._resume(now)], renewed)

    def _tokens(self, batch: Tokens, now: float) -> Received:
        if batch.seq != self.expected:
            self._behind |= batch.seq > self.expected
            return Received([], self.tick(now))
        self.expected += 1
        self._behind, self._idle_ahead, self.up = False, 0, True
        if self._ack_at is None:
            self._ack_at = now + ACK_S
        if self.expected - self._acked >= ACK_BATCHES:
            self._ack_at = now
        return Received(batch.deltas, self.tick(now))

    def _resume(self, now: float) -> Resume:
        self._resume_at = now + (RESUME_S if self.up else RESUME_SLOW_S)
        self._acked, self._ack_at = self.expected, None
        return Resume(self._front.inc, self._worker, self.expected, self._front.secret)

    def _ack(self) -> Ack:
        self._acked, self._ack_at = self.expected, None
        return Ack(self._front.inc, self._worker, self.expected, self._front.secret)

    def check(self) -> None:
        """Invariants, for tests."""
        assert self._acked <= self.expected
        assert self.expected - self._acked < ACK_BATCHES or self._ack_at is not None
