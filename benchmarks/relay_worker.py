"""A worker process whose engine is synthetic: it says known tokens as fast as it is asked to. All else is the real one.

    python benchmarks/relay_worker.py RUN_DIR '{"num_seqs": 250, "rate": 40}'

The only place where an engine may be made up: what is measured is the way from a worker's step to the client.
"""

import gc
import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import relay_stamps
from relay_words import CARD, MODEL, said

from tokenyard.broker import logs
from tokenyard.broker.identity import SECRET_BYTES, Identity
from tokenyard.broker.params import Params
from tokenyard.broker.wire import AdapterKey, Card, Delta, Finish, WorkerJob
from tokenyard.scripts.tie import tie_to_parent
from tokenyard.workers.main import WorkerProcess
from tokenyard.workers.options import WorkerOptions
from tokenyard.workers.scheduler import Held, is_held

if TYPE_CHECKING:
    from tokenyard.workers.engine import Engine

NEAR_S = 0.004
"""A step that is due sooner is waited for here; EngineThread looks for new jobs meanwhile every 5 ms."""


class Pace(NamedTuple):
    """How a synthetic worker speaks."""

    num_seqs: int
    rate: float
    """Tokens a second of each stream."""
    per_delta: int = 1
    """Tokens of a stream in one step."""
    waits: bool = False
    """Says nothing before there is a file `go` in the folder; streams that come later begin at once, as after a prefill
    of no time."""
    phase: float = 0.0
    """Of a step's time, 0 to 1: when within it this worker steps, so that several do not all at once."""
    folder: str = ""
    """For times."""
    num_streams: int = 0
    num_tokens: int = 0
    """Of the whole run, whose tokens' times are noted."""


class Output(NamedTuple):
    """As workers/engine.py's."""

    key: WorkerJob
    delta: Delta


class Saying:
    """One stream."""

    __slots__ = ("index", "key", "num_tokens", "opened", "seed")

    def __init__(self, key: WorkerJob, num_emitted: int, params: Params) -> None:
        self.key = key
        self.seed = params.seed
        self.index = num_emitted
        """Tokens said so far, in all attempts."""
        self.opened = False
        self.num_tokens = params.max_tokens


class SyntheticEngine:
    """Stands where workers/engine.py's Engine does. A stream's seed says what it says, its max_tokens how much."""

    def __init__(self, pace: Pace, inc: bytes) -> None:
        self.num_steps = 0
        self.late = None
        self.patience_s = 0.0
        self._pace = pace
        self._streams: dict[WorkerJob, Saying] = {}
        self._waits = pace.waits
        self._step_s = pace.per_delta / pace.rate
        self._due_s = 0.0
        self._num_said = 0
        self._fresh: list[int] = []
        """What this step has said: places in `_said`."""
        folder = Path(pace.folder)
        self._go = folder / "go"
        self._made, self._started = relay_stamps.made(folder, inc), relay_stamps.started(folder)
        self._said = relay_stamps.said(folder, pace.num_streams, pace.num_tokens).reshape(-1)

    def enter_thread(self) -> None:
        """There is nothing here that asks which thread it is."""

    @property
    def has_work(self) -> bool:
        return bool(self._streams)

    def load(self) -> dict[str, int]:
        return {"running": len(self._streams), "emitted_tokens": self._num_said}

    def add(
        self, key: WorkerJob, prompt_ids: list[int], emitted_ids: list[int], params: Params, adapter: AdapterKey
    ) -> None:
        self._started.note(key.job)
        self._streams[key] = Saying(key, len(emitted_ids), params)

    def abort(self, key: WorkerJob) -> None:
        self._streams.pop(key, None)

    def took(self, seconds: float) -> None:
        """How long a step lasted is no news here."""

    def step(self, held: Held = ()) -> list[Output]:
        """All streams' next tokens, once they are due; new streams begin at once."""
        if new := [stream for stream in self._streams.values() if not stream.opened]:
            return self._told([self._open(stream) for stream in new])
        if self._waits and self._go.exists():
            self._waits, self._due_s = False, self._next_s()
        if self._waits or not self._is_due():
            return []
        return self._told([self._say(one) for one in list(self._streams.values()) if not is_held(one.key, held)])

    def _is_due(self) -> bool:
        left_s = self._due_s - time.monotonic()
        if left_s > NEAR_S:
            return False
        if left_s > 0:
            time.sleep(left_s)
        self._due_s = self._next_s()
        return True

    def _next_s(self) -> float:
        """A multiple of a step's time on the clock that all workers share; steps that were missed are left out."""
        number = (time.monotonic() / self._step_s - self._pace.phase) // 1 + 1
        return (number + self._pace.phase) * self._step_s

    def _open(self, stream: Saying) -> Output:
        stream.opened = True
        if not self._waits:
            return self._say(stream)
        return Output(stream.key, Delta(stream.key.job, stream.key.attempt, stream.index, [], {"cached_tokens": 0}))

    def _say(self, stream: Saying) -> Output:
        key, first = stream.key, stream.index
        ids = said(stream.seed, min(self._pace.per_delta, stream.num_tokens - first), first)
        stream.index += len(ids)
        begin = stream.seed * self._pace.num_tokens
        self._fresh += range(begin + first, begin + stream.index)
        self._num_said += len(ids)
        finish = None
        if stream.index >= stream.num_tokens:
            finish = Finish("length")
            del self._streams[key]
        return Output(key, Delta(key.job, key.attempt, first, ids, {}, finish))

    def _told(self, outputs: list[Output]) -> list[Output]:
        if outputs:
            self.num_steps += 1
        if self._fresh:  # else streams have only been opened, while their requests keep the front busy
            self._said[self._fresh] = self._made.note(self.num_steps - 1)
            self._fresh.clear()
        return outputs


def serve(run_dir: Path, pace: Pace) -> None:
    """Run until told to stop."""
    logs.setup("worker", "INFO")
    inc, secret = Identity.of(secrets.token_bytes(SECRET_BYTES))

    def load(progress: Callable[[float], None]) -> "tuple[Engine, Card]":
        gc.collect()
        gc.freeze()  # as the real loader does
        return cast("Engine", SyntheticEngine(pace, inc)), CARD

    options = WorkerOptions(MODEL, run_dir, max_num_seqs=pace.num_seqs, secret=secret)
    WorkerProcess(options, load).run()


if __name__ == "__main__":
    tie_to_parent()
    serve(Path(sys.argv[1]), Pace(**json.loads(sys.argv[2])))
