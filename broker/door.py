"""A socket that listens on tcp: asks each key whether it may come in, and hears who fails and who leaves.

libzmq asks in the process itself, over inproc (ZAP, ZeroMQ RFC 27); the process's own poll loop answers.
"""

import logging
from collections.abc import Callable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from tokenyard.broker.curve import Keys
from tokenyard.broker.logs import Complaints
from tokenyard.broker.sockets import Context, Socket, listen, waiting

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
COMPLAIN_S = 10.0
"""Between two log lines about strangers: one that tries on and on must not fill the log."""
FAILURES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
"""Those that no key was asked for; for one that was refused, the asking says more."""

log = logging.getLogger(__name__)


class Doorman:
    """Answers for all CURVE sockets of one context: lets in the keys that `is_allowed` knows."""

    def __init__(self, context: Context, is_allowed: Callable[[str], bool], refusal: bytes) -> None:
        """`refusal`: 400 tells the caller that it is refused for good; 300 has it call again after HANDSHAKE_MS."""
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(ZAP_ENDPOINT)
        self._is_allowed = is_allowed
        self._refusal = refusal
        self._complaints = Complaints(log, COMPLAIN_S)

    def answer(self, now: float) -> None:
        """Some of the questions that wait."""
        for version, request, _, address, _, _, *credentials in waiting(self.socket.recv_multipart):
            key = z85.encode(credentials[0]).decode() if credentials and len(credentials[0]) == 32 else ""
            if self._is_allowed(key):
                self.socket.send_multipart([version, request, b"200", b"OK", key.encode(), b""])
                continue
            self.socket.send_multipart([version, request, self._refusal, b"not in the list of keys", b"", b""])
            words = f"refused {address.decode(errors='replace')}: its key {key} is not in the list of those let in"
            self._complaints.say(words, now)


class Door:
    """A listening socket on tcp with its monitor; its owner polls `sources` and calls `look` for any of them."""

    def __init__(self, context: Context, kind: int, endpoint: str, keys: Keys | None) -> None:
        """With keys, a Doorman must be there already. Raises SetupError."""
        self.socket: Socket = listen(context, kind, endpoint, keys)
        self.endpoint = str(self.socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self.monitor: Socket = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | FAILURES)
        self._complaints = Complaints(log, COMPLAIN_S)

    def hung_up(self, now: float) -> list[int]:
        """Descriptors of the connections that have ended since the last call; a failed handshake is told."""
        ended = []
        for frames in waiting(self.monitor.recv_multipart):
            event = parse_monitor_message(frames)
            if event["event"] == zmq.EVENT_DISCONNECTED:
                ended.append(event["value"])
            else:
                words = "whoever called has no key, took another for ours, or speaks another protocol"
                self._complaints.say(f"a handshake failed at {self.endpoint}: {words}", now)
        return ended

    def close(self) -> None:
        """At once, with all connections."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
