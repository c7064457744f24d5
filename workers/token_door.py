"""Where fronts get a worker's tokens: an XPUB in the run directory, or on tcp for fronts on other boxes.

On tcp the broker says whose keys are let in (Allowed): so the list is kept in one place, and no box needs another's.
"""

import socket as sockets
import time
from collections.abc import Mapping
from pathlib import Path

import zmq

from tokenyard.broker.config import RunDir
from tokenyard.broker.door import Door, Doorman
from tokenyard.broker.endpoints import ANY, BrokerAddress, parse_tcp
from tokenyard.broker.errors import SetupError
from tokenyard.broker.sockets import Context, Socket, listen
from tokenyard.workers.options import WorkerOptions

COME_AGAIN = b"300"
"""To a front whose key is not in the list, for the list may still be on its way here."""
REBIND_S = 2.0
"""libzmq closes a socket in its own time, some milliseconds; so long may its port stay taken."""
REBIND_PAUSE_S = 0.005


class TokenDoor:
    """The XPUB, bound, and whom it lets in."""

    def __init__(self, context: Context, address: BrokerAddress, options: WorkerOptions, inc: bytes) -> None:
        """Raises SetupError."""
        self._context = context
        self._keys = address.keys
        self._door: Door | None = None
        self._doorman: Doorman | None = None
        self._path: Path | None = None
        self.key = ""
        """What this door proves itself by; empty where it is plain."""
        bind = options.bind or (f"tcp://{_own_address(address)}:*" if address.is_remote else None)
        if bind is None:
            self.endpoint = RunDir(options.run_dir).create().tokens_endpoint(inc)
            self._path = Path(self.endpoint.removeprefix("ipc://"))
            self.socket: Socket = listen(context, zmq.XPUB, self.endpoint)
            return
        if options.advertise is None and parse_tcp(bind, "--bind", may_be_open=True).host in ANY:
            raise SetupError(f"--bind {bind}: say with --advertise by which address fronts reach this box")
        if self._keys is not None:
            self.key = self._keys.public
            self._allowed = {self._keys.broker}  # fronts on the broker's box; the others' keys it will tell
            self._doorman = Doorman(context, lambda key: key in self._allowed, COME_AGAIN)
        self._door = Door(context, zmq.XPUB, bind, self._keys)
        self.socket = self._door.socket
        self.endpoint = _called(self._door.endpoint, options.advertise)

    @property
    def sources(self) -> list[Socket]:
        """What must be polled; the rest than `socket` is for `tend`."""
        more = [self._door.monitor] if self._door else []
        return [self.socket, *more, *([self._doorman.socket] if self._doorman else [])]

    def tend(self, ready: Mapping[object, int], now: float) -> None:
        """Let in who waits."""
        if self._doorman and self._doorman.socket in ready:
            self._doorman.answer(now)
        if self._door and self._door.monitor in ready:
            self._door.hung_up(now)

    def allow(self, keys: list[str]) -> bool:
        """Let in these and nobody else; whether somebody is in who may not be, so that all must come anew."""
        if self._keys is None or self._door is None:
            return False
        before, self._allowed = self._allowed, set(keys)
        return not before <= self._allowed

    def bind_again(self) -> None:
        """End all connections, as libzmq cannot end one of many, and listen at the same place: `sources` are others
        then. No token is lost: the links resume.
        """
        if self._door is not None:
            endpoint = self._door.endpoint
            self._door.close()
            self._door = self._once_free(endpoint)
            self.socket = self._door.socket
        else:  # a path is free at once: libzmq takes the place of what is there
            self.socket.close(linger=0)
            self.socket = listen(self._context, zmq.XPUB, self.endpoint)

    def remove(self) -> None:
        """What the closed socket leaves behind."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _once_free(self, endpoint: str) -> Door:
        ends_at = time.monotonic() + REBIND_S
        while True:
            try:
                return Door(self._context, zmq.XPUB, endpoint, self._keys)
            except SetupError:
                if time.monotonic() >= ends_at:
                    raise
                time.sleep(REBIND_PAUSE_S)


def _own_address(address: BrokerAddress) -> str:
    """The address of this machine by which it reaches the broker; nothing is sent."""
    broker = parse_tcp(address.front, "--broker")
    try:
        family, kind, _, _, target = sockets.getaddrinfo(
            broker.host.strip("[]"), int(broker.ports), type=sockets.SOCK_DGRAM
        )[0]
        with sockets.socket(family, kind) as probe:
            probe.connect(target)
            host = str(probe.getsockname()[0])
    except OSError as error:
        words = f"--broker {address.front}: {error.strerror or error}; or say with --bind where to listen"
        raise SetupError(words) from error
    return f"[{host}]" if ":" in host else host


def _called(endpoint: str, advertise: str | None) -> str:
    """The endpoint that fronts are told. Raises SetupError."""
    if advertise is None:
        return endpoint
    ports = parse_tcp(endpoint, "--bind").ports
    has_port = advertise.rpartition(":")[2].isdigit() and not advertise.endswith("]")
    return str(parse_tcp(f"tcp://{advertise}" if has_port else f"tcp://{advertise}:{ports}", "--advertise"))
