"""How sockets are read, and what waits in them."""

import time
from pathlib import Path

import zmq

from tokenyard.broker.config import INBOUND_HWM, MAX_FRAMES, TURN_S
from tokenyard.broker.sockets import listen, waiting


def test_a_flood_leaves_others_their_turn() -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as here, context.socket(zmq.PUSH) as there:
        here.bind("inproc://here")
        there.connect("inproc://here")
        for _ in range(MAX_FRAMES + 4):
            there.send(b"frame")
        assert [time.sleep(TURN_S) for _ in waiting(here.recv)] == [None]
        assert [len(list(waiting(here.recv))) for _ in range(3)] == [MAX_FRAMES, 3, 0]


def test_large_frames_wait_with_their_sender(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/s"
    with (
        zmq.Context() as context,
        listen(context, zmq.ROUTER, endpoint) as here,
        context.socket(zmq.DEALER) as there,
    ):
        there.linger, there.sndhwm, there.sndtimeo = 0, 1, 200
        there.connect(endpoint)
        num_sent = 0
        try:
            while num_sent < 4 * INBOUND_HWM:
                there.send(bytes(1 << 20))
                num_sent += 1
        except zmq.Again:
            pass
        assert INBOUND_HWM <= num_sent <= INBOUND_HWM + 4
        assert here.poll(0)
