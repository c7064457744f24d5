"""The engine's thread: takes jobs from a queue, steps, and puts what each step made where the I/O thread finds it.

The only thread that touches torch, so that a long prefill or compile never delays a heartbeat.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from tokenyard.broker.codec import unpack_ids
from tokenyard.broker.config import BEAT_S
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card, Delta, Finish, WorkerJob
from tokenyard.workers.adapter_desk import Adopt, Retire
from tokenyard.workers.desk import Add, Drop
from tokenyard.workers.scheduler import Held

if TYPE_CHECKING:
    # Imports torch: at run time only the loader does that, in the engine's thread, while the I/O thread already talks.
    from tokenyard.workers.adoption import Adopted, Adoption, Arrived
    from tokenyard.workers.engine import Engine
    from tokenyard.workers.outputs import Output

Command = Add | Drop | Adopt | Retire

IDLE_WAIT_S = 0.005
"""When all sequences wait for slow fronts or for their grammars, look again so often; an ack takes about 0.1 ms, a slow
front far longer."""


class Loader(Protocol):
    """Makes the engine, in the engine's thread; `progress` takes 0 to 1."""

    def __call__(self, progress: Callable[[float], None]) -> "tuple[Engine, Card]": ...


class EngineThread(threading.Thread):
    """Runs one engine. `wake` becomes readable whenever `results`, `adopted`, `card` or `failure` have news."""

    def __init__(self, load: Loader) -> None:
        super().__init__(name="engine", daemon=True)
        self._load = load
        self._commands: SimpleQueue[Command | Arrived] = SimpleQueue()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.results: deque[list[tuple[WorkerJob, Delta]]] = deque()
        """One entry a step, taken off by the I/O thread."""
        self.adopted: deque[Adopted] = deque()
        """What came of each adapter, taken off as results are."""
        self._adoption: Adoption | None = None
        """Made for the first adapter."""
        self.card: Card | None = None
        self.failure: BaseException | None = None
        """What ended this thread: the process cannot go on without it."""
        self.progress = 0.0
        """Of loading, 0 to 1."""
        self.num_steps = 0
        self._busy: tuple[float, Engine] | None = None
        """Since when the engine computes, if it does."""
        self.load_figures: dict[str, int] = {}
        self.held: Held = ()
        """Set by the I/O thread: whose sequences skip steps."""

    def step_s(self, now: float) -> float:
        """How long the step at hand may last in all; 0 where none has lasted for a beat, as nearly always."""
        busy = self._busy
        return busy[1].patience_s if busy is not None and now - busy[0] > BEAT_S else 0.0

    def put(self, command: Command) -> None:
        self._commands.put(command)

    def run(self) -> None:
        try:
            engine, self.card = self._load(self._set_progress)
            self.load_figures = engine.load()
            engine.enter_thread()
            self._signal()
            if engine.late is not None:
                engine.late.start()
            while True:
                self._take_commands(engine, wait=not engine.has_work, timeout_s=self._rest_s(engine))
                self._improve(engine)
                began_s = time.monotonic()
                self._busy = began_s, engine
                outputs = engine.step(self.held)
                self._busy = None
                engine.took(time.monotonic() - began_s)
                idle = engine.num_steps == self.num_steps
                self.num_steps, self.load_figures = engine.num_steps, engine.load()
                self._tell(outputs)
                if not outputs and engine.has_work and idle:
                    self._take_commands(engine, wait=True, timeout_s=IDLE_WAIT_S)
        except BaseException as error:  # noqa: BLE001 - the process's one place: whatever it is, the I/O thread must know
            self.failure = error
            self._signal()

    def _rest_s(self, engine: "Engine") -> float | None:
        """How long nothing is to be done without a command; None: for ever."""
        due_s = math.inf if engine.late is None else engine.late.due_s(engine.demand)
        return None if due_s == math.inf else max(0.0, due_s - time.monotonic())

    def _improve(self, engine: "Engine") -> None:
        """Do a piece of what makes the model quicker, if it is time for one."""
        if engine.late is None or engine.late.due_s(engine.demand) > time.monotonic():
            return
        self._tell(engine.settle())
        self._busy = time.monotonic(), engine
        if not engine.late.go_on():
            engine.late = None
        self._busy = None

    def _tell(self, outputs: "list[Output]") -> None:
        if outputs:
            self.results.append([(output.key, output.delta) for output in outputs])
            self._signal()

    def _take_commands(self, engine: "Engine", wait: bool, timeout_s: float | None = None) -> None:
        """Carry out all that is queued; if told to, wait for the first."""
        try:
            command = self._commands.get(wait, timeout_s)
            while True:
                match command:
                    case Add():
                        self._add(engine, command)
                    case Drop(key):
                        engine.abort(key)
                    case Retire(adapter_key):
                        engine.adapters.retire(adapter_key)
                    case Adopt(adapter):
                        self._tell_adopted(self._adoption_of(engine).begin(adapter))
                    case arrived:
                        self._tell_adopted(self._adoption_of(engine).finish(arrived))
                command = self._commands.get_nowait()
        except Empty:
            return

    def _add(self, engine: "Engine", job: Add) -> None:
        """Begin a job, or answer at once why it cannot run: every job ends in exactly one finish."""
        emitted = unpack_ids(job.emitted_ids)
        try:
            if job.kind == "generate":
                engine.add(job.key, unpack_ids(job.prompt_ids), emitted, job.params, job.adapter)
            elif job.kind == "score":
                engine.score(job.key, unpack_ids(job.prompt_ids), job.params, job.adapter)
            elif job.kind == "embed":
                engine.embed(job.key, unpack_ids(job.prompt_ids), job.adapter)
            else:
                raise TokenyardError("invalid_value", f"this worker does no jobs of kind {job.kind!r}")
        except TokenyardError as error:
            finish = Finish("error", error.code, error.words, error.param)
            self.results.append([(job.key, Delta(job.key.job, job.key.attempt, len(emitted), [], {}, finish))])
            self._signal()

    def _adoption_of(self, engine: "Engine") -> "Adoption":
        if self._adoption is None:
            from tokenyard.workers.adoption import Adoption  # here, as it imports torch

            self._adoption = Adoption(engine, self._commands.put)
        return self._adoption

    def _tell_adopted(self, adopted: "Adopted | None") -> None:
        if adopted is not None:
            self.adopted.append(adopted)
            self._signal()

    def _set_progress(self, fraction: float) -> None:
        self.progress = fraction

    def _signal(self) -> None:
        os.eventfd_write(self.wake, 1)
