"""A process's connection to its broker: one DEALER, with an ear for how its handshakes go."""

import logging
from collections.abc import Callable
from contextlib import suppress

import zmq
from zmq.utils.monitor import parse_monitor_message

from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.sockets import Context, Socket, dial, waiting

REDIAL_S = 1.0
"""libzmq calls no more whom it was refused by or did not understand; somebody may mend that, so we do, at this pace."""
SAY_AGAIN_S = 60.0
"""Between two log lines that say why there is no connection."""
HANG_UPS = 3
"""In a row, before we say so: one may be a broker that died in the middle of a handshake."""

MISMATCH = 0x11000002
"""ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH (zmq_socket_monitor(3)); pyzmq does not name it."""
FAILURES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH

log = logging.getLogger(__name__)


class BrokerLine:
    """Never waits. Its owner polls `socket`, and calls `tend` when `monitor` has something and once a second."""

    def __init__(
        self, context: Context, address: BrokerAddress, endpoint: str, say: Callable[[str], None] = log.error
    ) -> None:
        """`endpoint`: the address's `front` or `work`; `say` hears now and then why there is no connection.

        Raises SetupError.
        """
        self.endpoint = endpoint
        self.socket: Socket = dial(context, zmq.DEALER, endpoint, address.keys, address.server_key)
        self.monitor: Socket = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | FAILURES)
        self.trouble = ""
        """Why no broker is connected, as far as is known."""
        self._say = say
        self._has_keys = bool(address.server_key)
        self._num_hang_ups = 0
        self._redial_s: float | None = None
        self._said_s = -SAY_AGAIN_S
        self._refusal = ""

    def tend(self, now: float) -> bool:
        """Whether a handshake has finished since the last call: with a broker that may never have heard of us."""
        finished = False
        for frames in waiting(self.monitor.recv_multipart):
            event = parse_monitor_message(frames)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                finished, self.trouble, self._num_hang_ups = True, "", 0
            else:
                self._failed(event["event"], event["value"], now)
        if self._redial_s is not None and now >= self._redial_s:
            self._redial_s = None
            with suppress(zmq.ZMQError):  # it may have forgotten the endpoint
                self.socket.disconnect(self.endpoint)
            self.socket.connect(self.endpoint)
        return finished

    def refused(self, words: str) -> None:
        """The broker says so to each word of ours: told once."""
        if words != self._refusal:
            self._refusal = words
            self._say(f"the broker refuses this process: {words}")

    def close(self) -> None:
        """At once; what is not sent yet is lost."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)

    def _failed(self, event: int, value: int, now: float) -> None:
        is_hang_up = event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # libzmq calls again by itself
        self._num_hang_ups += is_hang_up
        if is_hang_up and self._num_hang_ups < HANG_UPS:
            return
        if not is_hang_up:
            self._redial_s = now + REDIAL_S
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            words = "does not let this box in: its key is not in the broker's list"
        elif not self._has_keys and (is_hang_up or value == MISMATCH):
            words = "wants a key: give --keys DIR"
        elif is_hang_up:
            words = "hangs up in the handshake: it has other keys than this box's broker.key says, or none"
        else:
            words = "speaks another protocol"
        self.trouble = f"{self.endpoint} {words}"
        if now - self._said_s >= SAY_AGAIN_S:
            self._said_s = now
            self._say(f"no broker: {self.trouble}")
