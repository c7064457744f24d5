"""The servers under test: how each is started and spoken to, and what it costs. Nothing here measures time.

Both get the same model directory, dtype, device and number of engine threads. Where they differ:
- `transformers serve` lacks ignore_eos. A `generation_config` in the body takes the place of the model's own, and an
  eos_token_id of -1 there can never be drawn, so both run to the full length and emit what they would have stopped at.
- It always sends usage and ignores `stream_options`; Tokenyard sends usage when asked.
- Its continuous batching takes sampling from the first request ever and the length from each; all of ours are greedy.
- It loads before it listens, but allocates its KV pool at the first request: warm up before measuring.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx
import psutil

OUR_NAME, DEFAULT_NAME, BATCHING_NAME = "tokenyard", "transformers serve", "transformers serve --continuous-batching"
"""As they stand in the tables."""
READY_S = 180.0
"""Bound on loading; the demo model takes seconds, a large one from disk minutes."""
EXIT_S = 15.0
"""Given to a server to end by itself after SIGTERM."""


class Setting(NamedTuple):
    """What all servers have in common."""

    model: str
    device: str
    dtype: str
    threads: int


class Peer(NamedTuple):
    """A server program."""

    name: str
    command: list[str]
    ready_path: str
    """Answers 200 once the model is loaded."""
    is_ours: bool


def tokenyard(setting: Setting, port: int, more: str = "") -> Peer:
    command = [sys.executable, "-m", "tokenyard.scripts.cli", "serve", setting.model, "--port", str(port)]
    command += ["--device", setting.device, "--dtype", setting.dtype, "--threads", str(setting.threads)]
    return Peer(OUR_NAME, [*command, *shlex.split(more)], "/ready", True)


def transformers_serve(setting: Setting, port: int, *, batching: bool, more: str = "") -> Peer:
    command = [str(Path(sys.executable).with_name("transformers")), "serve", setting.model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", setting.device, "--dtype", setting.dtype]
    command += ["--continuous-batching"] if batching else []
    return Peer(BATCHING_NAME if batching else DEFAULT_NAME, [*command, *shlex.split(more)], "/health", False)


class Server:
    """A running server: how it is asked, and what it costs."""

    def __init__(self, peer: Peer, model: str, port: int, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        self.peer = peer
        self.port = port
        self._model = model
        self._process = process
        self._log = log

    def wait_ready(self) -> None:
        """Until it has loaded the model. Raises RuntimeError with its last words if it does not."""
        end_s = time.monotonic() + READY_S
        url = f"http://127.0.0.1:{self.port}"
        while not _answers(url + self.peer.ready_path):
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.peer.name} ended at its start:\n{self.log_tail()}")
            if time.monotonic() > end_s:
                raise RuntimeError(f"{self.peer.name} was not ready after {READY_S:.0f} s:\n{self.log_tail()}")
            time.sleep(0.1)
        if self.peer.is_ours:
            self._model = httpx.get(f"{url}/v1/models", timeout=5).json()["data"][0]["id"]

    def body(self, prompt: str, num_tokens: int) -> dict[str, Any]:
        """A greedy streaming completion of exactly `num_tokens`."""
        body: dict[str, Any] = {"model": self._model, "prompt": prompt, "stream": True}
        if self.peer.is_ours:
            usage = {"include_usage": True}
            return {**body, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True, "stream_options": usage}
        config = {"do_sample": False, "max_new_tokens": num_tokens, "eos_token_id": -1}
        return {**body, "generation_config": json.dumps(config)}

    def cpu_s(self) -> float:
        """CPU time of all its living processes since their start."""
        times = [process.cpu_times() for process in self._processes()]
        return sum(one.user + one.system for one in times)

    def memory_mib(self) -> float:
        """Proportional set size over its processes: what they share is counted once."""
        return sum(process.memory_full_info().pss for process in self._processes()) / (1 << 20)

    def log_tail(self) -> str:
        """The end of what it wrote, read without moving the file position that it writes at."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")[-3000:]

    def stop(self) -> None:
        """End it and whatever it started."""
        processes = self._processes() if self._process.poll() is None else []
        self._process.terminate()
        for process in psutil.wait_procs(processes, timeout=EXIT_S)[1]:
            process.kill()
        self._process.wait()

    def _processes(self) -> list[psutil.Process]:
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]


@contextmanager
def running(peer: Peer, setting: Setting, port: int) -> Iterator[Server]:
    """The server, ready; at the end nothing of it is left."""
    threads = str(setting.threads)
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if Path(setting.model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"  # nothing to ask the Hub for
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(peer.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        server = Server(peer, setting.model, port, process, log)
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
