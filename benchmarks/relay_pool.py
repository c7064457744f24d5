"""The processes that the relay benchmark measures: broker, one or several fronts on one port, synthetic workers."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from relay_worker import Pace

from tokenyard.scripts.tie import PARENT_PID

HERE = Path(__file__).parent
IN_MEMORY = Path("/dev/shm")
"""Where pages that a process notes times in are never written to a disk meanwhile, which would stop it."""
READY_S = 120.0
"""Bound on starting: a front takes two seconds on a quiet machine, and took up to a minute on one with others' work."""
NUM_YES = 8
"""So many answers in a row, times the fronts: a port that several share is answered by any of them."""


class RelayPool:
    """Running processes in a directory of their own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.broker: psutil.Process
        self.fronts: list[psutil.Process] = []
        self.workers: list[psutil.Process] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.log_file = (folder / "log").open("ab")

    @property
    def run_dir(self) -> str:
        return str(self.folder / "run")

    def start(self, *command: str, pass_fds: tuple[int, ...] = ()) -> psutil.Process:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=self.log_file,
            stderr=self.log_file,
            env={**os.environ, PARENT_PID: str(os.getpid())},
            pass_fds=pass_fds,
        )
        self._processes.append(process)
        return psutil.Process(process.pid)

    def wait_ready(self) -> None:
        """Until every front knows all workers."""
        end_s = time.monotonic() + READY_S
        num_yes = 0
        while num_yes < NUM_YES * len(self.fronts):
            try:
                answer = httpx.get(f"http://127.0.0.1:{self.port}/ready", timeout=5).json()
                num_yes = num_yes + 1 if answer.get("workers") == len(self.workers) else 0
            except (httpx.TransportError, ValueError):
                num_yes = 0
            if time.monotonic() > end_s:
                raise RuntimeError(f"the pool was not ready after {READY_S:.0f} s:\n{self.log()}")
            time.sleep(0.02)

    def cpu_s(self) -> dict[str, float]:
        """Of each kind of process since its start."""
        kinds = {"front": self.fronts, "broker": [self.broker], "workers": self.workers}
        return {kind: sum(sum(one.cpu_times()[:2]) for one in processes) for kind, processes in kinds.items()}

    def front_bytes(self) -> int:
        """Memory that the fronts have for themselves."""
        return sum(process.memory_full_info().uss for process in self.fronts)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self.log_file.close()


@contextmanager
def running(kind: str, paces: list[Pace], num_fronts: int) -> Iterator[RelayPool]:
    """A pool that is ready; at the end nothing of it is left. `kind` of front: ours or plain."""
    with (
        tempfile.TemporaryDirectory(prefix="relay-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name,
        socket.create_server(("127.0.0.1", 0), backlog=2048) as port,
    ):
        pool = RelayPool(Path(name), port.getsockname()[1])
        try:
            command = ["-m", "tokenyard.scripts.cli", "broker", "--run-dir", pool.run_dir, "--queue-limit", "10000"]
            pool.broker = pool.start(*command)
            for _ in range(num_fronts):
                command = [str(HERE / "relay_front.py"), kind, pool.run_dir, str(port.fileno()), name]
                pool.fronts.append(pool.start(*command, pass_fds=(port.fileno(),)))
            for pace in paces:
                given = json.dumps(pace._replace(folder=name)._asdict())
                pool.workers.append(pool.start(str(HERE / "relay_worker.py"), pool.run_dir, given))
            pool.wait_ready()
            yield pool
        finally:
            pool.close()
