"""Bad neighbours at the real sockets of a pool: processes of the same user that lie, and another user's.

Broker, worker and the front's client of the pool are the real ones; the worker's engine says known tokens.
"""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import relay_worker
import zmq
from onlooker import until
from relay_words import MODEL, said
from relay_worker import Pace
from rich.console import Console
from switch import Switch, secret

from tokenyard.broker.codec import encode
from tokenyard.broker.config import RunDir
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.identity import Identity
from tokenyard.broker.params import Params
from tokenyard.broker.sockets import dial
from tokenyard.broker.wire import (
    PROTOCOL,
    Ack,
    AgentHello,
    Exited,
    Finish,
    FrontHello,
    Goodbye,
    Message,
    Resume,
    Status,
    Stop,
)
from tokenyard.http.metrics import exposition
from tokenyard.http.pool import JobRequest, Pool
from tokenyard.scripts.control import status_table

NUM_STREAMS, NUM_TOKENS, RATE = 4, 100, 100
THIEF, AGENT = Identity.of(secret("thief")), Identity.of(secret("agent"))
NOBODY = 65534


class Place:
    """The processes of a pool, made under a umask that forbids nothing."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder / "run").create()
        pace = Pace(8, RATE, folder=str(folder), num_streams=NUM_STREAMS, num_tokens=NUM_TOKENS)
        worker = [relay_worker.__file__, str(self.run_dir.path), json.dumps(pace._asdict())]
        lines = [["-m", "tokenyard.broker.main", "--run-dir", str(self.run_dir.path)], worker]
        self.processes = [subprocess.Popen([sys.executable, *line], umask=0) for line in lines]

    @asynccontextmanager
    async def front(self) -> AsyncIterator[Pool]:
        """One in this process that knows the worker."""
        pool = Pool(BrokerAddress.of(self.run_dir.path))
        await pool.start()
        try:
            await until(lambda: pool.ready)
            yield pool
        finally:
            await pool.close()

    def sockets(self) -> list[Path]:
        return [path for path in self.run_dir.path.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="doors-") as folder:
        place = Place(Path(folder))
        yield place
        for process in place.processes:
            process.kill()
            process.wait()


class Sink:
    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.finish: Finish | None = None

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        self.token_ids += token_ids
        self.finish = finish

    def failed(self, error: TokenyardError) -> None:
        raise AssertionError(error)


class Raw:
    """A ZMTP connection as an XSUB's, without its manners: it may leave what it never subscribed to."""

    def __init__(self, endpoint: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(endpoint.removeprefix("ipc://"))
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL"
        ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04XSUB"
        self.socket.sendall(greeting.ljust(64, b"\0") + bytes([4, len(ready)]) + ready)
        heard = b""
        while b"READY" not in heard:  # until then, all that comes is taken for part of the handshake
            heard += self.socket.recv(100)

    def send(self, frame: bytes) -> None:
        self.socket.sendall(bytes([0, len(frame)]) + frame)


def lies_to_a_worker(front: bytes, worker: bytes) -> list[bytes]:
    """In a front's name, by one who knows no more than what Status tells all."""
    shown: list[Message] = []
    for proof in (b"", THIEF.secret):
        shown += [Ack(front, worker, 1 << 40, proof), Resume(front, worker, 1 << 40, proof)]
        shown += [Stop(front, worker, job, proof) for job in range(1, NUM_STREAMS + 1)]
    return [*map(encode, shown), *(b"\x00" + topic for topic in topics_of(front)), b"\x93?"]


def topics_of(front: bytes) -> list[bytes]:
    """What a thief may subscribe to, and say that it leaves."""
    return [front, front + THIEF.secret]


def lies_to_the_broker(front: bytes, worker: bytes) -> list[list[bytes]]:
    """Each list over a connection of its own."""
    hello = Switch.hello("worker")._replace(inc=worker, endpoint="ipc://elsewhere", secret=b"")
    agent = AgentHello(PROTOCOL, AGENT.inc, 1, ["cpu"], [], secret=AGENT.secret)
    lies: list[list[Message]] = [
        [hello],
        [FrontHello(PROTOCOL, front, 1, [], THIEF.secret)],
        [Goodbye(front), Goodbye(worker, "a crash")],
        [agent, Exited(worker, "crash", "made up"), Goodbye(worker)],
        [FrontHello(PROTOCOL, THIEF.inc, 1, [], THIEF.secret), hello],
    ]
    return [[encode(lie) for lie in told] for told in lies]


def test_streams_go_on_whatever_is_said_in_their_names(place: Place) -> None:
    async def run() -> None:
        async with place.front() as pool:
            sinks = [Sink() for _ in range(NUM_STREAMS)]
            for seed, sink in enumerate(sinks):
                pool.submit(JobRequest(MODEL, [1], Params(NUM_TOKENS, seed=seed)), sink)
            body = await pool.status(5)
            assert body is not None
            front, worker = (bytes.fromhex(body[kind][0]["inc"]) for kind in ("fronts", "workers"))
            with zmq.Context() as context:
                at_worker = Raw(place.run_dir.tokens_endpoint(worker))
                told = lies_to_the_broker(front, worker)
                at_broker = [dial(context, zmq.DEALER, place.run_dir.work_endpoint) for _ in told]
                for topic in topics_of(front):
                    at_worker.send(b"\x01" + topic)
                while not all(sink.finish for sink in sinks):
                    for frame in lies_to_a_worker(front, worker):
                        at_worker.send(frame)
                    for liar, frames in zip(at_broker, told, strict=True):
                        for frame in frames if liar.poll(100, zmq.POLLOUT) else ():
                            liar.send(frame)
                    await asyncio.sleep(0.05)
                at_worker.socket.close()
                context.destroy(linger=0)
            assert [sink.token_ids for sink in sinks] == [said(seed, NUM_TOKENS) for seed in range(NUM_STREAMS)]
            assert not pool.figures.counts["request_resumes"], "no stream had to go elsewhere"
            await told_to_all(pool, "identity", "malformed")

    asyncio.run(asyncio.wait_for(run(), 60))


async def told_to_all(pool: Pool, *reasons: str) -> None:
    """What the worker refused shows in Status, /metrics and `tokenyard status`, and what the broker did, too."""
    body: dict[str, Any] = {}

    async def is_told() -> bool:
        body.update(await pool.status(5) or {})
        return all(f"refused_{reason}" in body["workers"][0]["load"] for reason in reasons)

    async with asyncio.timeout(10):
        while not await is_told():
            await asyncio.sleep(0.05)
    metrics, console = exposition(pool.figures, body).decode(), Console(width=160)
    with console.capture() as shown:
        console.print(status_table(body, "here"))
    for who in ("the broker", f"worker {body['workers'][0]['inc'][:8]}"):
        assert f'tokenyard_refused_messages_total{{by="{who.removeprefix("the ")}",reason="{reasons[0]}"}}' in metrics
        assert f"{who.removeprefix('worker ')} refused messages: " in shown.get()


FOREIGNER = f"""
import os, socket, sys, zmq
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})  # after the imports, which only root may be able to read
paths, frame = sys.argv[1:-1], bytes.fromhex(sys.argv[-1])
for path in paths:
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(path)
        except PermissionError:
            print("shut", path)
context = zmq.Context()
for path in paths:
    caller = context.socket(zmq.XSUB if "/w-" in path else zmq.DEALER)
    caller.linger = 0
    caller.connect("ipc://" + path)
    caller.send(frame)
    print(caller.poll(300), path)
context.destroy()
"""


def ask_as_another_user(paths: list[Path], frame: bytes) -> list[str]:
    line = [sys.executable, "-c", FOREIGNER, *map(str, paths), frame.hex()]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def test_the_sockets_are_for_this_user_alone(place: Place) -> None:
    async def run() -> None:
        async with place.front():
            assert stat.S_IMODE(place.run_dir.path.stat().st_mode) == 0o700
            modes = {path.name[:2]: stat.S_IMODE(path.stat().st_mode) for path in place.sockets()}
            assert modes == {"fr": 0o600, "wo": 0o600, "w-": 0o600}

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_stays_outside(place: Place) -> None:
    async def run() -> None:
        async with place.front() as pool:
            paths, frame = sorted(place.sockets()), encode(Status(1))
            shut = [f"{word} {path}" for path in paths for word in (0, "shut")]
            assert ask_as_another_user(paths, frame) == sorted(shut)
            # Were they open, as after somebody's chmod, the kernel still says whose process it is.
            for path in (place.run_dir.path.parent, place.run_dir.path):
                path.chmod(0o711)
            for path in paths:
                path.chmod(0o666)
            assert ask_as_another_user(paths, frame) == sorted(f"0 {path}" for path in paths), "nobody answers it"
            await told_to_all(pool, "user")

    asyncio.run(asyncio.wait_for(run(), 60))
