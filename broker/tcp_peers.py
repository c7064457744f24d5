"""The broker's door on tcp: who may come in by which key, what each may say, and who has left.

All roles come by one ROUTER. No kernel vouches for these peers: their key does, and their connection's end is theirs.
"""

import time
from dataclasses import dataclass

import zmq

from tokenyard.broker.config import ALLOW_S
from tokenyard.broker.curve import AllowList, Keys
from tokenyard.broker.door import Door, Doorman
from tokenyard.broker.errors import WireError
from tokenyard.broker.sockets import Context
from tokenyard.broker.wire import Allowed, Message, WorkerHello

REPEAT_S = 5.0
"""Workers are told so often whom they may let in: a list that did not arrive is missed for so long."""
BANNED = "its key is no longer in the list of those let in"
REFUSED = b"400"
"""The caller hears that it is refused, and says so in its log."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A peer, as far as its connection tells."""

    descriptor: int
    """Of the connection in this process: its end is told by that."""
    key: str
    """Empty where this door is plain."""


class TcpPeers:
    """A peer is named as the broker names it: the letter of this socket and a routing id."""

    def __init__(self, context: Context, endpoint: str, keys: Keys | None) -> None:
        """Raises SetupError."""
        self._allowed = AllowList(keys) if keys else None
        self._doorman = Doorman(context, self._lets_in, REFUSED) if keys else None
        self._door = Door(context, zmq.ROUTER, endpoint, keys)
        self.socket = self._door.socket
        self.endpoint = self._door.endpoint
        self._visitors: dict[bytes, Visitor] = {}
        self._peers: dict[int, bytes] = {}  # by descriptor
        self._left: list[bytes] = []
        self._banned: list[bytes] = []
        self._keyed: set[bytes] = set()
        """Workers, also of this box, whose tokens go over CURVE, and that must know whom they may let in."""
        self._untold: set[bytes] = set()
        """Those that do not, as far as is known."""
        self._look_s = self._tell_s = 0.0

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._visitors

    @property
    def sources(self) -> list["zmq.Socket[bytes]"]:
        """What must be polled beside the socket itself; `tend` is due when one has something, and every ALLOW_S."""
        return [self._door.monitor, *([self._doorman.socket] if self._doorman else [])]

    def admit(self, peer: bytes, frame: zmq.Frame) -> None:
        """The first frame of a connection."""
        descriptor = frame.get(zmq.SRCFD)
        # The end of its last owner was told before this one could have the number; telling may have been lost, though.
        self._hear()
        if (last := self._peers.get(descriptor)) is not None:
            self._leave(last)
        key = str(frame.get("User-Id")) if self._allowed else ""
        self._visitors[peer], self._peers[descriptor] = Visitor(descriptor, key), peer

    def check(self, peer: bytes, message: Message) -> None:
        """Raise WireError for what this peer may not say."""
        key = self._visitors[peer].key
        if self._allowed and key not in self._allowed.names:
            raise WireError(BANNED, "key")
        if isinstance(message, WorkerHello) and message.key != key:
            raise WireError("a worker must be known by the key that it came with", "key")

    def tend(self) -> None:
        """Let in who waits, hear who left, look whether the list has changed."""
        self._hear()
        now = time.monotonic()
        if self._doorman:
            self._doorman.answer(now)
        if now >= self._look_s:
            self._reread(now)

    def take_left(self) -> list[bytes]:
        """Peers that have gone since the last call."""
        left, self._left = self._left, []
        return left

    def take_banned(self) -> list[bytes]:
        """Peers whose key was taken back since the last call: their connections cannot be ended from here."""
        banned, self._banned = self._banned, []
        self._keyed.difference_update(banned)
        return banned

    def news(self) -> list[tuple[bytes, Message]]:
        """What workers must be told now of whom they may let in; who cannot be told is dropped."""
        now = time.monotonic()
        if now >= self._tell_s:
            self._tell_s, self._untold = now + REPEAT_S, set(self._keyed)
        told, self._untold = self._untold, set()
        if self._allowed is None or not told:
            return []
        allowed = Allowed(sorted(self._allowed.names))
        return [(peer, allowed) for peer in told]

    def note(self, peer: bytes, message: Message) -> None:
        """A message of any of the broker's peers has come."""
        if isinstance(message, WorkerHello) and message.key:
            self._keyed.add(peer)
            self._untold.add(peer)

    def drop(self, peer: bytes) -> None:
        """It can be told nothing more."""
        self._keyed.discard(peer)

    def _lets_in(self, key: str) -> bool:
        """Asked of the files as they are now: who has just been added need not try twice."""
        assert self._allowed is not None
        self._reread(time.monotonic())
        return key in self._allowed.names

    def _reread(self, now: float) -> None:
        self._look_s = now + ALLOW_S
        if self._allowed and self._allowed.refresh():
            self._tell_s = now
            self._banned += [peer for peer, one in self._visitors.items() if one.key not in self._allowed.names]

    def _hear(self) -> None:
        for descriptor in self._door.hung_up(time.monotonic()):
            if (peer := self._peers.get(descriptor)) is not None:
                self._leave(peer)

    def _leave(self, peer: bytes) -> None:
        del self._peers[self._visitors.pop(peer).descriptor]
        self._left.append(peer)
