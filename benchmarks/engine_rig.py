"""An engine without sockets, made as a worker makes its own, and fed with requests of exact lengths."""

import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tokenyard.broker.params import Params
from tokenyard.broker.wire import PLAIN, AdapterKey, WorkerJob
from tokenyard.workers.main import make_loader
from tokenyard.workers.options import WorkerOptions


class Place(NamedTuple):
    """Which model runs where; `options` are more fields of WorkerOptions."""

    model: str
    device: str
    dtype: str
    threads: int
    options: dict[str, Any]


def random_ids(seed: int, count: int, vocab_size: int) -> list[int]:
    """A prompt that shares no prefix with another seed's."""
    return Random(seed).choices(range(vocab_size), k=count)


class Rig:
    """One engine; all requests are greedy and never end early."""

    def __init__(self, place: Place) -> None:
        options = WorkerOptions(
            spec=place.model,
            run_dir=Path(tempfile.gettempdir()),  # only a worker with sockets writes there
            device=place.device,
            dtype=place.dtype,
            threads=place.threads,
            **place.options,
        )
        self.engine, self.card = make_loader(options)(lambda _: None)
        self.num_jobs = 0

    def add(self, seed: int, num_prompt: int, num_new: int, adapter: AdapterKey = PLAIN) -> WorkerJob:
        """A request with the prompt of this seed: the same seed finds its prompt cached."""
        self.num_jobs += 1
        key = WorkerJob(b"bench", self.num_jobs, 1)
        prompt = random_ids(seed, num_prompt, self.card.vocab_size)
        self.engine.add(key, prompt, [], Params(max_tokens=num_new, temperature=0.0), adapter)
        return key

    def step(self) -> tuple[float, list[WorkerJob]]:
        """One step: when it was over, and who got a token, once for each."""
        outputs = self.engine.step()
        now_s = time.perf_counter()
        keys = [output.key for output in outputs for _ in output.delta.token_ids]
        for output in outputs:
            finish = output.delta.finish
            if finish is not None and finish.reason == "error":
                raise RuntimeError(f"a request ended with an error: {finish.words}")
        return now_s, keys

    def drain(self) -> None:
        """Step until nothing is left."""
        while self.engine.has_work:
            self.step()

    def drop(self, keys: list[WorkerJob]) -> None:
        """Forget these requests; their prompts stay cached."""
        for key in keys:
            self.engine.abort(key)
