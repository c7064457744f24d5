"""How much has come up a worker's token socket that no front says, so that it is more than memory should hold. Sans-IO.

libzmq keeps every topic that is subscribed to, and all that comes up until it is read, in any number, and can end none
of these connections by itself. Ending all costs honest fronts a moment and no token: the links resume.
"""

from tokenyard.broker.config import MAX_FRAMES

MAX_CROWD_BYTES = 1 << 20
"""Some 6,000 connections of fronts, which subscribe twice each; some 10,000 of any other frames. libzmq has taken up to
some 50 MB of memory for them by then."""
FRAME_BYTES = 64
"""What a frame counts beside its own bytes: libzmq keeps as much with each."""


class Crowd:
    """Counts from one binding of the socket to the next."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._num_frames = 0
        """In this turn, as the next one."""
        self._own_bytes = 0

    def heard(self, num_bytes: int) -> None:
        """A frame of this size came up."""
        self._num_frames += 1
        self._num_bytes += num_bytes + FRAME_BYTES

    def is_own(self, num_bytes: int) -> None:
        """It was a front's Ack or the like, of which nothing stays."""
        self._own_bytes += num_bytes + FRAME_BYTES

    def is_too_much(self) -> bool:
        """At the end of a turn: whether all connections must end. Then the count begins anew."""
        if self._num_frames < MAX_FRAMES:  # else more is waiting, be it of whoever
            self._num_bytes -= self._own_bytes
        self._num_frames = self._own_bytes = 0
        if self._num_bytes <= MAX_CROWD_BYTES:
            return False
        self._num_bytes = 0
        return True
