"""`tokenyard agent` as the broker meets it: a real process with real workers, and this test in the broker's place."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import zmq
from yard import wait_until

from tokenyard.broker import codec
from tokenyard.broker.config import RunDir
from tokenyard.broker.identity import Identity
from tokenyard.broker.wire import AgentHello, Dying, Exited, Kill, Message, Ping, Spawn, Spawned, Who
from tokenyard.scripts.tie import SECRET

M = TypeVar("M", bound=Message)
PATIENCE_S = 20.0
FLEET = """
[[worker]]
model = "demo"
device = "cpu"
threads = 1
"""


class Agent:
    """The process, and the ROUTER that it talks to."""

    def __init__(self, folder: Path, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        run_dir = RunDir(folder / "run").create()
        self.router = context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.bind(run_dir.work_endpoint)
        (folder / "fleet.toml").write_text(FLEET)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tokenyard.scripts.cli", "agent"),
                *("--config", str(folder / "fleet.toml"), "--run-dir", str(run_dir.path)),
            ],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TOKENYARD_PARENT_PID": str(os.getpid()), "XDG_RUNTIME_DIR": str(folder)},
        )
        self._peer = b""
        self.hello = self.receive(AgentHello)

    def receive(self, kind: type[M]) -> M:
        """The next message of this kind from the agent itself; like a broker, this asks strangers who they are."""
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            if not self.router.poll(100):
                continue
            peer, frame = self.router.recv_multipart()
            message = codec.decode(frame)
            if isinstance(message, AgentHello):
                self._peer = peer
            if isinstance(message, Ping) and peer != self._peer:
                self.router.send_multipart([peer, codec.encode(Who(bytes(8)))])
            if peer == self._peer and isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind.__name__} came")

    def send(self, message: Message) -> None:
        self.router.send_multipart([self._peer, codec.encode(message)])

    def worker(self, inc: bytes) -> psutil.Process:
        """The process of this incarnation."""

        def find() -> list[psutil.Process]:
            found = []
            for child in psutil.Process(self.process.pid).children():
                try:
                    secret = bytes.fromhex(child.environ().get(SECRET, ""))
                    found += [child] if Identity.of(secret).inc == inc else []
                except (psutil.NoSuchProcess, psutil.ZombieProcess):
                    continue
            return found

        wait_until(find, f"worker {inc.hex()}")
        return find()[0]

    def next_life(self, old: bytes) -> bytes:
        """The worker that takes the place of one that died."""
        while not (fresh := set(self.receive(AgentHello).workers) - {old}):
            pass
        return fresh.pop()


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory(prefix="agent-") as folder, zmq.Context() as context:
        agent = Agent(Path(folder), context)
        try:
            yield agent
        finally:
            agent.process.kill()
            agent.process.wait()
            agent.router.close()


def living(agent: Agent) -> bytes:
    """Its one worker, as a fresh hello tells."""
    agent.send(Who(bytes(8)))
    while not (hello := agent.receive(AgentHello)).workers:
        pass
    assert hello.workers == [Identity.of(proof).inc for proof in hello.proofs]
    return hello.workers[0]


@pytest.mark.parametrize(
    ("signum", "cause", "words"),
    [
        (signal.SIGABRT, "crash", "died of SIGABRT"),
        (signal.SIGKILL, "killed", "SIGKILL from outside"),
    ],
)
def test_a_death_is_told_with_its_cause_and_healed(agent: Agent, signum: int, cause: str, words: str) -> None:
    inc = living(agent)
    agent.worker(inc).send_signal(signum)
    assert agent.receive(Dying) == Dying(inc)
    exited = agent.receive(Exited)
    assert (exited.inc, exited.cause) == (inc, cause)
    assert exited.words.startswith(words)
    assert agent.next_life(inc) != inc


def test_kill_ends_this_worker_and_another_comes(agent: Agent) -> None:
    inc = living(agent)
    agent.send(Kill(inc))
    assert agent.receive(Exited)[:3] == (inc, "killed", "killed as asked")
    agent.next_life(inc)


def test_a_repeated_spawn_gets_the_same_worker(agent: Agent) -> None:
    agent.send(Spawn(2**62, "demo,name=second", "cpu"))
    inc = agent.receive(Spawned).inc
    assert "demo,name=second" in agent.worker(inc).cmdline()
    agent.send(Spawn(2**62, "demo,name=second", "cpu"))
    assert agent.receive(Spawned).inc == inc


def test_a_spawn_without_a_device_is_answered(agent: Agent) -> None:
    agent.send(Spawn(7, "demo", "cuda:9"))
    inc = agent.receive(Spawned).inc
    assert agent.receive(Exited) == Exited(inc, "crash", "there is no device 'cuda:9' here; there are cpu", True)


def test_it_ends_its_workers_with_itself(agent: Agent) -> None:
    """The last: the agent is gone after it."""
    workers = psutil.Process(agent.process.pid).children()
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(10) == 128 + signal.SIGINT
    assert not any(worker.is_running() for worker in workers)
