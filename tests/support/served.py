"""A real `tokenyard serve` for tests of its supervisor: its log, its process tree, its end."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import zmq
from yard import free_port, wait_until

from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.wire import Status
from tokenyard.scripts.broker_peer import BrokerPeer
from tokenyard.scripts.control import ask

LOADED_S = 100.0
"""Bound on loading two workers side by side on two busy cores; below pytest's own time-out for a test."""
GONE_S = 3.0
"""So soon after its supervisor's death nothing of a pool may be left."""


class Served:
    """One supervisor and all below it."""

    def __init__(self, *arguments: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="served-"))
        self.run_dir = self.folder / "run"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._seen: dict[int, psutil.Process] = {}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tokenyard.scripts.cli", "serve", *arguments),
                    *("--port", str(self.port), "--run-dir", str(self.run_dir), "--device", "cpu", "--threads", "1"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TOKENYARD_PARENT_PID": str(os.getpid()), "XDG_RUNTIME_DIR": str(self.folder)},
            )

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def wait_log(self, pattern: str) -> re.Match[str]:
        """Until a line of the log matches; fails if the supervisor ends before."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.log(), re.MULTILINE)
            assert match or self.process.poll() is None, f"ended before {pattern!r}:\n{self.log()}"
            return match

        wait_until(found, f"{pattern!r} in the log", LOADED_S)
        match = found()
        assert match
        return match

    def wait_ready(self) -> "Served":
        self.wait_log(f"serves {self.url}/v1$")
        return self

    def children(self, role: str) -> list[psutil.Process]:
        """The living processes of one role, by age."""
        found = []
        for process in self.process_tree():
            try:
                words = process.cmdline()[:6]
                if role in words or (role == "worker" and "standby" in words and _serves(process)):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def process_tree(self) -> list[psutil.Process]:
        """All below the supervisor; each is remembered for `survivors`."""
        try:
            tree = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen |= {process.pid: process for process in tree}
        return tree

    def survivors(self) -> list[psutil.Process]:
        """Of all processes ever seen below the supervisor, those that still live."""
        return [
            process
            for process in self._seen.values()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def wait_gone(self) -> None:
        """Nothing is left, soon."""
        assert self._seen
        wait_until(lambda: not self.survivors(), "the pool to be gone", GONE_S)

    def status(self) -> dict[str, Any]:
        """The broker's answer to Status."""
        with zmq.Context() as context:
            broker = BrokerPeer(context, BrokerAddress.of(self.run_dir))
            try:
                return ask(broker, Status, 1)
            finally:
                broker.close()

    def ready_pids(self) -> set[int]:
        return {row["pid"] for row in self.status()["workers"] if row["state"] == "ready"}

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _serves(standby: psutil.Process) -> bool:
    """Whether it has become a worker: such a one listens for fronts."""
    return any("/w-" in str(one.laddr) for one in standby.net_connections("unix"))
