"""The worker's end of one token link: what to send to one front, when, and what to keep until it is acknowledged.

Sans-IO: takes events and the time (seconds, any origin), returns frames to send. One SendLink per front incarnation.
Must not know sockets, engines or jobs: a batch is bytes with a number.
"""

from collections import deque

from tokenyard.broker.codec import encode
from tokenyard.broker.config import RESUME_S, RING_BYTES, UNSUBSCRIBED_S, WINDOW
from tokenyard.broker.wire import Delta, Idle, LinkUp, Tokens

IDLE_FIRST_S = 0.05
IDLE_MAX_S = 1.0
"""LinkUp without an answer and tails without an ack are told of again: soon at first, then ever slower."""


class SendLink:
    """Numbers batches, keeps them until acknowledged, and never has more than a window in flight."""

    def __init__(self, worker: bytes, now: float, number: int = 0) -> None:
        """`number`: higher than that of any link that this worker has made before."""
        self._worker = worker
        self._number = number
        self._ring: deque[bytes] = deque()
        """Encoded batches `[oldest, next_seq)`: sent and unacknowledged ones first, unsent ones behind."""
        self._ring_bytes = 0
        self.oldest = 0
        """The first batch not yet acknowledged."""
        self.next_seq = 0
        """The number that the next batch gets."""
        self._next_unsent = 0
        """Between `oldest` and `next_seq`: what is below was sent since the last Resume."""
        self.num_resent = 0
        """Batches that had been sent and were asked for again."""
        self.subscribed = False
        self._resumed = False
        """Tokens flow only after the front's Resume: before it, a SUB may drop anything (measured)."""
        self._resume_s = now
        """From when on the next Resume is heeded: the front sends one at most every RESUME_S."""
        self._away_since: float | None = now
        """When the subscription was last seen to be gone; None while it is there."""
        self._idle_at: float | None = None
        self._idle_gap_s = IDLE_FIRST_S

    @property
    def full(self) -> bool:
        """The front does not keep up: its sequences must skip steps."""
        return self._ring_bytes >= RING_BYTES or self.next_seq - self.oldest >= 2 * WINDOW

    @property
    def settled(self) -> bool:
        """True when the front has all there is, or nobody is there to take it."""
        return self.oldest == self.next_seq or not self.subscribed

    def subscribe(self, now: float) -> list[bytes]:
        """The front's subscription was seen: tell it what is here, until its Resume comes."""
        self.subscribed, self._resumed, self._away_since = True, False, None
        self._idle_gap_s = IDLE_FIRST_S
        self._idle_at = now + self._idle_gap_s
        return [self._link_up()]

    def unsubscribe(self, now: float) -> None:
        """The front is gone, perhaps for good."""
        self.subscribed = self._resumed = False
        self._away_since = now

    def expired(self, now: float) -> bool:
        """True once the front has been away for so long that its sequences are to be freed."""
        return self._away_since is not None and now - self._away_since > UNSUBSCRIBED_S

    def push(self, deltas: list[Delta], now: float) -> list[bytes]:
        """Queue one step's deltas as one batch; returns what may go out at once."""
        frame = encode(Tokens(self.next_seq, deltas))
        self._ring.append(frame)
        self._ring_bytes += len(frame)
        self.next_seq += 1
        return self._pump(now)

    def resume(self, from_seq: int, now: float) -> list[bytes]:
        """The front misses everything from `from_seq` on: send it again, or say that there is nothing.

        A number outside the ring can only come from a front that is confused or hostile; it gets what is here. One that
        asks sooner than a front may is answered when it asks again: a window for each of a flood would be all the time.
        """
        self._acknowledge(from_seq)
        if self._resumed and now < self._resume_s:
            return self._pump(now)
        self._resume_s = now + RESUME_S / 2
        self._resumed = True
        self.num_resent += self._next_unsent - self.oldest
        self._next_unsent = self.oldest
        return self._pump(now) or [encode(Idle(self._next_unsent))]

    def ack(self, upto: int, now: float) -> list[bytes]:
        """All below `upto` arrived: forget it, and send what the window held back."""
        self._acknowledge(upto)
        return self._pump(now)

    def tick(self, now: float) -> list[bytes]:
        """Say again what has had no answer for a while: LinkUp before a Resume, Idle while a tail is unacknowledged."""
        if not self.subscribed or self._idle_at is None or now < self._idle_at:
            return []
        self._idle_gap_s = min(2 * self._idle_gap_s, IDLE_MAX_S)
        self._idle_at = now + self._idle_gap_s
        return [encode(Idle(self._next_unsent)) if self._resumed else self._link_up()]

    def _pump(self, now: float) -> list[bytes]:
        """Everything unsent that the window allows."""
        if not self._resumed:
            return []
        upto = min(self.next_seq, self.oldest + WINDOW)
        frames = [self._ring[seq - self.oldest] for seq in range(self._next_unsent, upto)]
        self._next_unsent = max(self._next_unsent, upto)
        if frames:
            self._idle_gap_s = IDLE_FIRST_S
            self._idle_at = now + self._idle_gap_s
        elif self.oldest == self.next_seq:
            self._idle_at = None
        return frames

    def _link_up(self) -> bytes:
        return encode(LinkUp(self._worker, self.oldest, self.next_seq, self._number))

    def _acknowledge(self, upto: int) -> None:
        for _ in range(min(upto, self.next_seq) - self.oldest):
            self._ring_bytes -= len(self._ring.popleft())
            self.oldest += 1
        self._next_unsent = max(self._next_unsent, self.oldest)

    def check(self) -> None:
        """Invariants, for tests."""
        assert self.oldest <= self._next_unsent <= self.next_seq
        assert len(self._ring) == self.next_seq - self.oldest
        assert self._ring_bytes == sum(map(len, self._ring))
        assert self._next_unsent - self.oldest <= WINDOW
        assert not self._resumed or self.subscribed
