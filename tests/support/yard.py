"""A pool of real processes for tests: broker, workers, front, each one killable. Nothing outlives the test process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import zmq

from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.wire import Status
from tokenyard.scripts.broker_peer import BrokerPeer
from tokenyard.scripts.control import ask

START_S = 120.0
"""Bound on waits: importing torch and transformers took up to a minute when two cores had ten busy processes."""


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = START_S) -> None:
    """Poll until the condition is true; fail by name when the time is up."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Yard:
    """Processes of one pool in a run directory of its own."""

    def __init__(
        self,
        model: str = "demo",
        num_workers: int = 1,
        worker_arguments: list[str] | None = None,
        front_arguments: list[str] | None = None,
        broker_arguments: list[str] | None = None,
    ) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="yard-"))
        self.model = model
        self.worker_arguments = worker_arguments or []
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._logs: list[Path] = []
        self.broker = self.start("broker", *(broker_arguments or []))
        self.front = self.start("front", "--port", str(self.port), *(front_arguments or []))
        self.workers = [self.start_worker() for _ in range(num_workers)]
        try:
            self.wait_workers(num_workers)
        except BaseException:
            self.close()
            raise

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start one process; its log goes to a file that `log` gives back."""
        path = self.run_dir / f"{len(self._logs)}-{arguments[0]}.log"
        self._logs.append(path)
        with path.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tokenyard.scripts.cli", *arguments, "--run-dir", str(self.place(arguments[0]))],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TOKENYARD_PARENT_PID": str(os.getpid())},
                cwd=self.run_dir,
            )

    def place(self, role: str) -> Path:
        """The run directory of its processes."""
        return self.run_dir

    def start_worker(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return self.start("worker", self.model, "--device", "cpu", "--threads", "1", *self.worker_arguments, *arguments)

    def restart_broker(self) -> None:
        """Kill the broker as hard as can be and start another."""
        self.broker.kill()
        self.broker.wait()
        self.broker = self.start("broker")

    def pool(self) -> dict[str, int]:
        """What /ready says of the pool."""
        try:
            body: dict[str, int] = httpx.get(f"{self.url}/ready", timeout=5).json()
        except httpx.TransportError:
            return {}
        return body

    def status(self) -> dict[str, Any]:
        """What the broker knows, as `tokenyard status` asks for it."""
        with zmq.Context() as context:
            broker = BrokerPeer(context, BrokerAddress.of(self.run_dir))
            try:
                return ask(broker, Status, 1)
            finally:
                broker.close()

    def wait_workers(self, count: int) -> None:
        """Until the front knows so many workers that can take jobs."""

        def enough() -> bool:
            dead = [process for process in (self.broker, self.front, *self.workers) if process.poll() is not None]
            assert not dead, f"a process died:\n{self.log()}"
            return self.pool().get("workers", 0) >= count

        wait_until(enough, f"{count} ready workers")

    def log(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in self._logs)

    def close(self) -> None:
        for process in (self.front, *self.workers, self.broker):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.run_dir, ignore_errors=True)
