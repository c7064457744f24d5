"""What CURVE costs a message between a worker and a front: beside plain tcp and ipc, over the sockets that they use.

    python benchmarks/curve_bench.py

60 bytes are a step's token for one stream, 3 kB those of fifty. Each side is a process; its CPU time is that of all its
threads, divided by the messages: streamed, as fast as the window of a link allows.
"""

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import zmq
from machine import load_average, machine, today, versions
from tables import markdown

from tokenyard.broker.config import ACK_BATCHES, WINDOW
from tokenyard.broker.curve import read_keys
from tokenyard.broker.door import Doorman
from tokenyard.broker.sockets import dial, listen
from tokenyard.scripts.pool_keys import make_keys

SIZES = (60, 3000)
WAYS = ("ipc", "tcp", "tcp with CURVE")
TOPIC = b"12345678"
HEAD = ["", "bytes", "worker, µs", "front, µs", "there and back, µs"]


def serve(way: str, folder: Path, size: int, num: int, told: Connection) -> None:
    """The worker's side: `num` messages within a window, then as many one at a time."""
    keys = read_keys(folder / "keys") if way == WAYS[2] else None
    context = zmq.Context()
    doorman = Doorman(context, lambda key: True, b"400") if keys else None
    endpoint = f"ipc://{folder}/bench.sock" if way == "ipc" else "tcp://127.0.0.1:*"
    socket = listen(context, zmq.XPUB, endpoint, keys)
    told.send(socket.get_string(zmq.LAST_ENDPOINT))
    while not socket.poll(5):
        if doorman:
            doorman.answer(time.monotonic())
    socket.recv()
    frame = TOPIC + bytes(size)
    began = time.process_time()
    acked = 0
    for sent in range(num):
        while sent - acked >= WINDOW or socket.poll(0):
            socket.recv()
            acked += ACK_BATCHES
        socket.send(frame)
    while acked < num:
        socket.recv()
        acked += ACK_BATCHES
    told.send((time.process_time() - began) / num)
    while told.poll(0) is False:
        if socket.poll(5):
            socket.send(TOPIC + socket.recv())
    context.destroy(linger=0)


def measure(way: str, size: int, num: int) -> list[float]:
    """(worker's CPU, front's CPU, round trip), each in µs a message."""
    with tempfile.TemporaryDirectory(prefix="curve-") as name:
        folder = Path(name)
        make_keys(folder / "keys", [])
        here, there = multiprocessing.get_context("spawn").Pipe()
        arguments = (way, folder, size, num, there)
        process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments)
        process.start()
        keys = read_keys(folder / "keys") if way == WAYS[2] else None
        with zmq.Context() as context:
            socket = dial(context, zmq.XSUB, here.recv(), keys, keys.public if keys else "")
            socket.send(b"\x01" + TOPIC)
            front_s = _receive(socket, num)
            worker_s = here.recv()
            trip_s = _trips(socket, size, max(100, num // 20))
            here.send(None)
            socket.close()
        process.join()
        return [1e6 * worker_s, 1e6 * front_s, 1e6 * trip_s]


def _receive(socket: "zmq.Socket[bytes]", num: int) -> float:
    """Seconds of CPU a message; an ack goes back for every ACK_BATCHES."""
    socket.recv()
    began = time.process_time()
    for received in range(2, num + 1):
        socket.recv()
        if received % ACK_BATCHES == 0:
            socket.send(b"\x90")
    return (time.process_time() - began) / num


def _trips(socket: "zmq.Socket[bytes]", size: int, num: int) -> float:
    """Seconds of a round trip, median."""
    trips = []
    for _ in range(num):
        began = time.perf_counter()
        socket.send(b"\x90" + bytes(size))
        socket.recv()
        trips.append(time.perf_counter() - began)
    return median(trips)


def main(
    num: Annotated[int, typer.Option(min=ACK_BATCHES, help="Messages of each size and way.")] = 60_000,
    rounds: Annotated[int, typer.Option(min=1, help="Of which the medians count.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Few messages, to see that it works.")] = False,
) -> None:
    """Measure each way at each size, in turn, and print a table as Markdown."""
    num = 10 * ACK_BATCHES if quick else num // ACK_BATCHES * ACK_BATCHES
    rounds = 1 if quick else rounds
    taken = {(way, size): [measure(way, size, num) for _ in range(rounds)] for size in SIZES for way in WAYS}
    typer.echo(
        f"{today()}, {machine('cpu')}, load average {load_average()}, {versions()}, libzmq {zmq.zmq_version()}\n"
    )
    cells = [
        [way, str(size), *(f"{median(column):.1f}" for column in zip(*rows, strict=True))]
        for (way, size), rows in taken.items()
    ]
    typer.echo(markdown(HEAD, cells))


if __name__ == "__main__":
    typer.run(main)
