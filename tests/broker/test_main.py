"""The broker's process over real sockets, killed and restarted, beside real peers that are killed too."""

import os
import random
import shutil
import signal
import socket as sockets
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

import pytest
import zmq
from switch import card, inc, secret, submit

from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import GRACE_S, MAX_MESSAGE_BYTES, RunDir
from tokenyard.broker.main import living_workers
from tokenyard.broker.wire import (
    PROTOCOL,
    Answer,
    Done,
    FrontHello,
    FrontJob,
    Goodbye,
    Lost,
    Message,
    Placed,
    Start,
    Status,
    Welcome,
    WorkerDown,
    WorkerHello,
    WorkerJob,
    WorkerUp,
)

WAIT_MS = 20_000
"""Bound on every wait: two cores that others use too."""

FAKE = """
import sys, zmq
context = zmq.Context()
sockets = []
for endpoint, *frames in [spec.split("=") for spec in sys.argv[1:]]:
    sockets.append(context.socket(zmq.DEALER))
    sockets[-1].connect(endpoint)
    for frame in frames:
        sockets[-1].send(bytes.fromhex(frame))
while True:
    sockets[0].recv()
"""
"""A process with one socket for each `endpoint=frame=frame…`."""

M = TypeVar("M", bound=Message)


class Peer:
    """A DEALER that speaks the protocol."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = 10
        self.socket.connect(endpoint)

    def send(self, message: Message) -> None:
        self.socket.send(encode(message))

    def wait_for(self, kind: "type[M] | UnionType") -> M:
        """The next message of this kind; others on the way are dropped."""
        end = time.monotonic() + WAIT_MS / 1000
        while True:
            left_ms = int(1000 * (end - time.monotonic()))
            assert left_ms > 0, f"no {kind}"
            if self.socket.poll(left_ms):
                message = decode(self.socket.recv())
                if isinstance(message, kind):
                    return message  # type: ignore[return-value]


class Place:
    """A run directory, the broker in it, and peers."""

    def __init__(self) -> None:
        self.run_dir = RunDir(Path(tempfile.mkdtemp(prefix="ty-")))
        self.context = zmq.Context()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.peers: list[Peer] = []
        self.broker = self.start_broker()

    def start_broker(self) -> "subprocess.Popen[bytes]":
        self.broker = self.spawn("-m", "tokenyard.broker.main", "--run-dir", str(self.run_dir.path))
        return self.broker

    def spawn(self, *arguments: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE)
        self.processes.append(process)
        return process

    def connect(self, endpoint: str) -> Peer:
        self.peers.append(Peer(self.context, endpoint))
        return self.peers[-1]

    def front(self, *claims: FrontJob, name: str = "front") -> Peer:
        """Connected and welcomed."""
        peer = self.connect(self.run_dir.front_endpoint)
        peer.send(FrontHello(PROTOCOL, inc(name), os.getpid(), list(claims), secret(name)))
        peer.wait_for(Welcome)
        return peer

    def worker(self, *jobs: WorkerJob, name: str = "worker") -> Peer:
        peer = self.connect(self.run_dir.work_endpoint)
        peer.send(worker_hello(name, *jobs))
        return peer

    def fake(self, **said: list[Message]) -> "subprocess.Popen[bytes]":
        """A process that says this at front.sock and at work.sock."""
        specs = []
        for name, messages in said.items():
            frames = [encode(message).hex() for message in messages]
            specs.append("=".join([f"ipc://{self.run_dir.path}/{name}.sock", *frames]))
        return self.spawn("-c", FAKE, *specs)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for peer in self.peers:
            peer.socket.close()
        self.context.term()
        shutil.rmtree(self.run_dir.path)


def worker_hello(name: str, *jobs: WorkerJob) -> WorkerHello:
    mine = (f"ipc://{name}", 4, card(), list(jobs), "", "", secret(name))
    return WorkerHello(PROTOCOL, inc(name), 0, "ready", *mine)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_MS / 1000
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


def test_a_job_goes_all_the_way(place: Place) -> None:
    front, worker = place.front(), place.worker()
    front.wait_for(WorkerUp)
    front.send(submit(1))
    start = worker.wait_for(Start)
    assert (start.front, start.job, start.attempt) == (inc("front"), 1, 1)
    assert front.wait_for(Placed) == Placed(1, 1, inc("worker"))
    worker.send(Done(inc("front"), 1, 1, "stop"))

    def freed() -> bool:
        front.send(Status(1))
        return bool(front.wait_for(Answer).body["workers"][0]["running"] == 0)

    wait_until(freed)


def test_sockets_are_private(place: Place) -> None:
    place.front()
    for name in ("front.sock", "work.sock"):
        assert stat.S_IMODE((place.run_dir.path / name).stat().st_mode) == 0o600


def test_a_killed_worker_is_seen_at_once(place: Place) -> None:
    front = place.front()
    seen_s = []
    for job in (1, 2, 3):
        process = place.fake(work=[worker_hello(f"victim{job}")])
        front.wait_for(WorkerUp)
        front.send(submit(job))
        front.wait_for(Placed)
        killed_s = time.monotonic()
        process.send_signal(signal.SIGKILL)
        assert front.wait_for(WorkerDown) == WorkerDown(inc(f"victim{job}"))
        assert front.wait_for(Lost) == Lost(job, 1, 0)
        seen_s.append(time.monotonic() - killed_s)
    assert min(seen_s) < 0.05, "the best of three: the machine may be busy"


def test_a_process_that_was_two_peers_takes_only_itself_away(place: Place) -> None:
    """Its front's end has the broker abort jobs on its worker, which is as dead, before that one's turn comes."""
    watcher, worker = place.front(name="watcher"), place.worker()
    watcher.wait_for(WorkerUp)
    worker.send(Goodbye(inc("worker")))  # from now on the model is known, and its jobs wait for a worker
    watcher.wait_for(WorkerDown)
    process = place.fake(
        front=[FrontHello(PROTOCOL, inc("both"), 0, [], secret("both")), submit(1)], work=[worker_hello("victim")]
    )

    def status() -> dict[str, Any]:
        watcher.send(Status(1))
        return watcher.wait_for(Answer).body

    wait_until(lambda: [worker["running"] for worker in status()["workers"]] == [1])
    process.kill()
    watcher.wait_for(WorkerDown)
    assert len(status()["fronts"]) == 1


def test_a_worker_that_hangs_up_is_noticed_when_it_is_needed(place: Place) -> None:
    front = place.front()
    worker = place.worker()
    front.wait_for(WorkerUp)
    worker.socket.close()
    job = 0

    def noticed() -> bool:
        nonlocal job
        job += 1
        front.send(submit(job))
        return isinstance(front.wait_for(Placed | WorkerDown), WorkerDown)

    wait_until(noticed)


def test_streams_outlive_a_killed_broker(place: Place) -> None:
    front, worker = place.front(), place.worker()
    front.wait_for(WorkerUp)
    front.send(submit(1))
    worker.wait_for(Start)
    place.broker.kill()
    place.broker.wait()
    place.start_broker()
    # Both reconnect by themselves; their hello follows, as after any handshake.
    again = place.front(FrontJob(1, 1), FrontJob(2, 1))
    place.worker(WorkerJob(inc("front"), 1, 1))
    assert again.wait_for(Placed) == Placed(1, 1, inc("worker"))
    again.send(submit(3))
    assert again.wait_for(Placed).job == 3


def test_a_new_broker_waits_for_the_workers_that_listen_and_clears_away_the_dead(place: Place) -> None:
    place.front()
    place.broker.kill()
    place.broker.wait()
    living, dead = (Path(place.run_dir.tokens_endpoint(inc(name)).removeprefix("ipc://")) for name in ("alive", "dead"))
    with sockets.socket(sockets.AF_UNIX) as listener, sockets.socket(sockets.AF_UNIX) as odd:
        listener.bind(str(living))
        listener.listen()
        odd.bind(str(place.run_dir.path / "w-odd.sock"))
        odd.listen()
        with sockets.socket(sockets.AF_UNIX) as gone:
            gone.bind(str(dead))
        assert living_workers(place.run_dir) == [inc("alive")]
        assert (living.exists(), dead.exists()) == (True, False)
        place.start_broker()
        place.worker(name="eager")
        front = place.front()
        started_s = time.monotonic()
        front.send(submit(1))
        place.worker(WorkerJob(inc("front"), 1, 1), name="alive")
        assert front.wait_for(Placed).worker == inc("alive")
        assert time.monotonic() - started_s < GRACE_S


def test_a_second_broker_is_refused(place: Place) -> None:
    front = place.front()
    second = place.spawn("-m", "tokenyard.broker.main", "--run-dir", str(place.run_dir.path))
    _, words = second.communicate(timeout=WAIT_MS / 1000)
    assert second.returncode == 1
    assert b"another broker is running there" in words
    front.send(Status(1))
    front.wait_for(Answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(place: Place, number: signal.Signals) -> None:
    place.front()
    place.broker.send_signal(number)
    _, words = place.broker.communicate(timeout=WAIT_MS / 1000)
    assert place.broker.returncode == 0
    assert b"Traceback" not in words


def test_a_flood_of_garbage_is_harmless(place: Place) -> None:
    front, worker = place.front(), place.worker()
    front.wait_for(WorkerUp)
    rng = random.Random(1)
    for endpoint in (place.run_dir.front_endpoint, place.run_dir.work_endpoint):
        stranger = place.connect(endpoint)
        for _ in range(3000):
            stranger.socket.send(rng.randbytes(rng.randint(0, 60)))
        stranger.socket.send_multipart([encode(Status(1)), b"more"])
        stranger.socket.send(bytes(MAX_MESSAGE_BYTES + 1))  # libzmq hangs up on it
        stranger.send(Start(b"", 1, 1, "generate", b"", b"", submit(1).params))
    front.send(submit(1))
    worker.wait_for(Start)
    front.wait_for(Placed)
    front.send(Status(1))
    counts = front.wait_for(Answer).body["broker"]["refused"]
    assert counts["malformed"] > 100, "those that came before libzmq hung up"
    place.broker.terminate()
    _, log = place.broker.communicate(timeout=WAIT_MS / 1000)
    assert b"dropped a frame" in log
    assert log.count(b"\n") < 100
