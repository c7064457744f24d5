"""One measurement of the relay: a pool, a client that reads so many streams, and what it cost and how long it took."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from relay_client import Order, Tally
from relay_pool import HERE, RelayPool, running
from relay_stamps import between_us, note_last_arrivals
from relay_worker import Pace


class Scene(NamedTuple):
    """What is played."""

    front: str = "ours"
    """Or plain."""
    path: str = "/v1/chat/completions"
    num_streams: int = 1000
    num_tokens: int = 400
    """Of each stream."""
    rate: float = 40.0
    """Tokens a second of each stream, if the front keeps up."""
    per_delta: int = 1
    """Tokens of a stream in one step of its worker."""
    num_workers: int = 4
    num_fronts: int = 1
    at_once: int = 64
    """Requests that may wait for their headers at a time."""
    waits: bool = True
    """Whether workers say nothing before all streams have their headers."""
    num_lagging: int = 0
    """Of the streams, so many are read only after all others have ended."""
    kill_after_s: float = 0.0
    """A worker is killed so long after the first token; 0: none."""

    def paces(self) -> list[Pace]:
        """Of its workers. Each can take its share of the streams only, or all of them where others are to be killed."""
        return [
            Pace(
                self.num_streams if self.kill_after_s else -(-self.num_streams // self.num_workers),
                self.rate,
                self.per_delta,
                self.waits,
                number / self.num_workers,
                num_streams=self.num_streams,
                num_tokens=self.num_tokens,
            )
            for number in range(self.num_workers)
        ]


class Played(NamedTuple):
    """What came of a scene."""

    scene: Scene
    tally: Tally
    cpu_s: dict[str, float]
    """Of the fronts, the broker, the workers and the client, from when all streams were open to the end of the last."""
    stream_bytes: float
    """Memory that a front has grown by for each stream, when all are open."""
    hop_us: list[float]
    """From the end of a worker's step until its batch is in the front's inbox: p50, p99, the longest."""
    write_us: list[float]
    """From then until the last of its tokens is written."""
    read_us: list[float]
    """From then until the client has it."""
    dispatch_us: list[float]
    """From a job's submission in the front until a worker's engine has it: p50, p99, the longest."""

    @property
    def tokens_per_core_s(self) -> float:
        """Tokens that a second of a front's CPU time relays."""
        return self.tally.num_tokens / self.cpu_s["front"]

    @property
    def tokens_per_s(self) -> float:
        return self.tally.num_tokens / self.tally.wall_s

    @property
    def cores(self) -> float:
        """Of a core's time, the fronts' share."""
        return self.cpu_s["front"] / self.tally.wall_s


def play(scene: Scene) -> Played:
    """Start everything, read everything, end everything."""
    with running(scene.front, scene.paces(), scene.num_fronts) as pool:
        idle_bytes = pool.front_bytes()
        order = Order(
            pool.port,
            scene.path,
            scene.num_streams,
            scene.num_tokens,
            scene.at_once,
            str(pool.folder),
            scene.num_lagging,
        )
        with reading(order, pool) as told:
            is_open = told.readline()
            stream_bytes = (pool.front_bytes() - idle_bytes) / scene.num_streams
            began_cpu_s = pool.cpu_s()
            (pool.folder / "go").touch()
            if is_open and scene.kill_after_s:
                time.sleep(scene.kill_after_s)
                pool.workers[-1].kill()
            is_read = told.readline()
            cpu_s = {kind: ended_s - began_cpu_s[kind] for kind, ended_s in pool.cpu_s().items()}
            tally = told.readline()
        if not is_read or not tally:
            raise RuntimeError(f"the client failed:\n{pool.log()}")
        known = Tally(**json.loads(tally))
        if known.latencies_ms:
            note_last_arrivals(pool.folder, scene.num_streams, scene.num_tokens)
        # Several fronts would number their batches and jobs alike.
        waits_us = (
            between_us(pool.folder, *series) if scene.num_fronts == 1 else []
            for series in (("made", "came"), ("came", "told"), ("told", "read"), ("submitted", "started"))
        )
        return Played(scene, known, {**cpu_s, "client": known.cpu_s}, stream_bytes, *waits_us)


@contextmanager
def reading(order: Order, pool: RelayPool) -> Iterator[IO[str]]:
    """A client that carries out the order; yields what it writes."""
    command = [sys.executable, str(HERE / "relay_client.py"), json.dumps(order._asdict())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=pool.log_file, text=True) as client:
        assert client.stdout is not None
        try:
            yield client.stdout
        finally:
            client.kill()
