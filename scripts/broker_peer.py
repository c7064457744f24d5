"""The supervisor's and the command line's end of a broker's socket: frames to messages and back."""

import logging
import time
from contextlib import suppress

import zmq

from tokenyard.broker import codec
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import WireError
from tokenyard.broker.line import BrokerLine
from tokenyard.broker.sockets import Context, waiting
from tokenyard.broker.wire import Message

log = logging.getLogger(__name__)


class BrokerPeer:
    """Sends and receives without waiting. Any message may be lost: its sender says it again."""

    def __init__(self, context: Context, address: BrokerAddress, is_agent: bool = False) -> None:
        """An agent's line is logged; the command line tells its user itself. Raises SetupError."""
        endpoint = address.work if is_agent else address.front
        say = log.error if is_agent else log.debug
        self._line = BrokerLine(context, address, endpoint, say)
        self.socket = self._line.socket

    @property
    def trouble(self) -> str:
        """Why no broker is connected, as far as is known."""
        return self._line.trouble

    def send(self, message: Message) -> None:
        """Send, or lose it where no broker is connected."""
        with suppress(zmq.Again):
            self.socket.send(codec.encode(message), zmq.NOBLOCK)

    def receive(self) -> list[Message]:
        """Some of what waits; what is not of the protocol is dropped. To be called now and then."""
        self._line.tend(time.monotonic())
        messages: list[Message] = []
        for frame in waiting(self.socket.recv):
            with suppress(WireError):
                messages.append(codec.decode(frame))
        return messages

    def close(self) -> None:
        """At once; what is not sent yet is lost."""
        self._line.close()
