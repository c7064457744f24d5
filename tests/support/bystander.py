"""A client that asks the same again and again while a pool is struck, and what a pool must look like afterwards."""

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

MODEL = "tokenyard-demo"
MAX_GROWTH_MIB = 24
"""Of any process: allocators and caches that fill; a frame of each blow kept would be more in a campaign of minutes."""


class Client(threading.Thread):
    """`wrong` is what was not as it must be."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._http = httpx.Client(base_url=url, timeout=20)
        self.right = self.ask()
        self.num_right = 0
        self.wrong: list[object] = []
        self._ends = threading.Event()

    def ask(self) -> Any:
        body = {"model": MODEL, "prompt": "Count from 1 to 9.", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        try:
            answer = self._http.post("/v1/completions", json=body)
            pages = [self._http.get(path).status_code for path in ("/v1/models", "/metrics", "/ready")]
            return (
                answer.json()["choices"][0]["text"] if {answer.status_code, *pages} == {200} else (answer.text, pages)
            )
        except httpx.HTTPError as error:
            return repr(error)

    def run(self) -> None:
        while not self._ends.is_set():
            told = self.ask()
            if told == self.right:
                self.num_right += 1
            else:
                self.wrong.append(told)

    def end(self) -> None:
        self._ends.set()
        self.join()
        self.wrong += [last] if (last := self.ask()) != self.right else []
        self._http.close()


def check_unharmed(pids: Mapping[str, int], url: str, folder: Path, strike: Callable[[], int]) -> None:
    """These processes live, have not grown, said of no bug, and answered right while `strike` struck so many blows."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    logs = {path: path.stat().st_size for path in folder.glob("*.log")}
    client = Client(url)
    before = {name: process.memory_full_info().uss for name, process in processes.items()}
    client.start()
    try:
        num_blows = strike()
    finally:
        client.end()
        said = "\n".join(path.read_bytes()[size:].decode(errors="replace") for path, size in logs.items())
    dead = [name for name, one in processes.items() if not one.is_running() or one.status() == psutil.STATUS_ZOMBIE]
    assert dead == [], said[-6000:]
    assert (fault := re.search("Traceback| 500 request_id", said)) is None, said[fault.start() - 2000 :][:6000]
    growth = {name: process.memory_full_info().uss - before[name] for name, process in processes.items()}
    grown = ", ".join(f"{name} {size / (1 << 20):+.1f} MiB" for name, size in growth.items())
    print(f"{num_blows:,} blows, {client.num_right:,} right answers meanwhile; {grown}")  # noqa: T201 - for campaigns
    assert not client.wrong, client.wrong[:9]
    assert client.num_right > 0
    assert max(growth.values()) < MAX_GROWTH_MIB << 20, grown
