"""How sockets are read."""

import zmq

from tokenyard.broker.config import MAX_FRAMES
from tokenyard.broker.sockets import waiting


def test_a_flood_leaves_others_their_turn() -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as here, context.socket(zmq.PUSH) as there:
        here.bind("inproc://here")
        there.connect("inproc://here")
        for _ in range(MAX_FRAMES + 1):
            there.send(b"frame")
        assert [len(list(waiting(here.recv))) for _ in range(3)] == [MAX_FRAMES, 1, 0]
