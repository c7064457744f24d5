"""The supervisor's and the command line's end of a broker's socket: one DEALER, frames to messages and back."""

from contextlib import suppress

import zmq

from tokenyard.broker import codec
from tokenyard.broker.config import MAX_MESSAGE_BYTES, RECONNECT_MAX_MS, RECONNECT_MS
from tokenyard.broker.errors import WireError
from tokenyard.broker.wire import Message


class BrokerPeer:
    """Sends and receives without waiting. Any message may be lost: its sender says it again."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.maxmsgsize = MAX_MESSAGE_BYTES
        self.socket.reconnect_ivl, self.socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        # Without it, what was meant for a dead broker would pile up and greet the next one.
        self.socket.immediate = True
        self.socket.connect(endpoint)

    def send(self, message: Message) -> None:
        """Send, or lose it where no broker is connected."""
        with suppress(zmq.Again):
            self.socket.send(codec.encode(message), zmq.NOBLOCK)

    def receive(self) -> list[Message]:
        """All messages that wait; what is not of the protocol is dropped."""
        messages: list[Message] = []
        while True:
            try:
                messages.append(codec.decode(self.socket.recv(zmq.NOBLOCK)))
            except zmq.Again:
                return messages
            except WireError:
                continue
