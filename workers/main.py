"""A worker process: one model on one device, between the broker's socket and the fronts' subscriptions.

The main thread does all I/O and decides nothing: the Desk decides, the engine thread computes.
"""

import gc
import logging
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import zmq

from tokenyard.broker import logs
from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import MAX_TOPIC_BYTES
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import SetupError, WireError
from tokenyard.broker.identity import SECRET_BYTES, Identity, prover_of
from tokenyard.broker.line import BrokerLine
from tokenyard.broker.sockets import sender_pid, waiting
from tokenyard.broker.spec import OFF, parse_spec
from tokenyard.broker.wire import (
    Abort,
    Ack,
    Allowed,
    Card,
    Drain,
    Goodbye,
    LoadAdapter,
    Pause,
    Refused,
    Resume,
    Start,
    Stop,
    UnloadAdapter,
    Who,
)
from tokenyard.workers.adapter_desk import Adopt, Retire
from tokenyard.workers.desk import Action, Desk, Drop, Exit, ToBroker, ToFront
from tokenyard.workers.desk import Add as AddJob
from tokenyard.workers.engine_thread import EngineThread, Loader
from tokenyard.workers.gently import gently
from tokenyard.workers.options import WorkerOptions
from tokenyard.workers.speculation import parse_speculate
from tokenyard.workers.token_door import TokenDoor

if TYPE_CHECKING:
    from tokenyard.workers.engine import Engine

log = logging.getLogger(__name__)

POLL_MS = 25
"""The finest timer of desk and links is 50 ms (ack, idle)."""
SPIN_COUNT = "1000"
"""Rounds, some microseconds, that an idle thread of torch waits busily for its next share. OpenMP's own default, some
milliseconds, takes the cores from whoever has the work: two threads on two cores with other processes took 360 to
650 ms for products that take 72 to 98 ms with this, and 30 to 39 ms with one thread."""
MAX_WORDS = 200
"""Letters of why an engine failed that the broker is told: a line or two of its log."""
GOODBYE_MS = 200
"""The last messages have so long to leave; a local socket takes them in under a millisecond."""
COMPLAIN_S = 1.0
"""Between two log lines about bad frames: a flood of them must not become a flood of lines."""
UNSUBSCRIBE, SUBSCRIBE = b"\x00", b"\x01"
"""First byte of an XPUB's subscription events (zmq_socket(3))."""


def run(options: WorkerOptions) -> None:
    """Serve until drained, told to end, or broken. Raises SetupError before the model loads; exits with its status."""
    set_device(options.gpu)
    me = Identity.of(options.secret or secrets.token_bytes(SECRET_BYTES))
    options = replace(options, secret=me.secret)
    logs.setup(f"worker {me.inc.hex()[:4]}", options.log_level)
    parse_spec(options.spec)
    parse_speculate(options.speculate)
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    set_waiting()
    WorkerProcess(options).run()


def set_device(gpu: int | None) -> None:
    """Before torch is imported: this process can touch no other GPU."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)


def set_waiting() -> None:
    """Before torch is imported: how its threads wait for each other."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


class WorkerProcess:
    """The sockets, and the loop that feeds the desk and does what it says."""

    def __init__(self, options: WorkerOptions, load: Loader | None = None) -> None:
        """`load`: makes another engine than the options ask for; the relay benchmark's, which has no model."""
        address = BrokerAddress.of(options.run_dir, options.broker, options.keys)
        me = Identity.of(options.secret or secrets.token_bytes(SECRET_BYTES))
        self._inc = me.inc
        self._context = zmq.Context()
        self._tokens = TokenDoor(self._context, address, options, self._inc)
        self._line = BrokerLine(self._context, address, address.work)
        self._work = self._line.socket
        name = f"{options.spec} on {f'gpu {options.gpu}' if options.gpu is not None else options.device}"
        self._desk = Desk(
            me,
            os.getpid(),
            self._tokens.endpoint,
            name,
            options.max_num_seqs,
            time.monotonic(),
            self._tokens.key,
        )
        self._engine = EngineThread(load or make_loader(options))
        self._num_stop_signals = 0
        self._must_end = False
        self._complaints = logs.Complaints(log, COMPLAIN_S)
        self._num_refused: Counter[str] = Counter()
        """Frames, by key of Beat.load."""
        self._num_topic_bytes = 0
        """Of all that was subscribed to or left since the socket was bound."""
        self._announced = False
        """Whether the desk has been given the card."""

    def run(self) -> None:
        """The loop: wait, tell the desk, do what it says."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._engine.start()
        self._poller = zmq.Poller()
        for source in (self._work, self._line.monitor, *self._tokens.sources, self._engine.wake):
            self._poller.register(source, zmq.POLLIN)
        tick_at = 0.0
        while True:
            ready = dict(self._poller.poll(POLL_MS))
            now = time.monotonic()
            if self._engine.wake in ready:
                self._from_engine(now)
            if self._tokens.socket in ready:
                self._drain(self._tokens.socket, self._from_front, now)
                if self._num_topic_bytes > MAX_TOPIC_BYTES:
                    self._complaints.say("more was subscribed to than fronts do: all of them must connect anew", now)
                    self._bind_again(now)
            if self._work in ready:
                self._drain(self._work, self._from_broker, now)
            if self._line.monitor in ready:
                self._tend_line(now)
            self._tokens.tend(ready, now)
            # Not once a step: all Python here is time that the engine's thread waits for the interpreter.
            if now >= tick_at:
                tick_at = now + POLL_MS / 1000
                self._tick(now)

    def _tend_line(self, now: float) -> None:
        if self._line.tend(now):
            self._do(self._desk.connected())

    def _tick(self, now: float) -> None:
        self._tend_line(now)
        if self._must_end:
            self._do(self._desk.leave())
        if self._num_stop_signals:
            self._do(self._desk.drain())
        step_ms = round(1000 * self._engine.step_s(now))
        self._do(self._desk.tick(self._engine.num_steps, self._load_figures(), now, step_ms))
        self._engine.held = self._desk.held(now)

    def _from_engine(self, now: float) -> None:
        os.eventfd_read(self._engine.wake)
        if self._engine.failure is not None:
            self._fail(self._engine.failure)
        if self._engine.card is not None and not self._announced:
            self._announced = True
            self._do(self._desk.loaded(self._engine.card))
        while self._engine.adopted:
            adapter, error = self._engine.adopted.popleft()
            self._do(self._desk.not_adopted(adapter, error) if error else self._desk.adopted(adapter))
        while self._engine.results:
            self._do(self._desk.stepped(self._engine.results.popleft(), now))

    def _from_broker(self, frame: bytes, now: float) -> None:
        message = decode(frame)
        if isinstance(message, Allowed):
            self._allow(message, now)
            return
        if not isinstance(message, Start | Abort | Drain | LoadAdapter | UnloadAdapter | Who | Refused):
            raise WireError(f"{type(message).__name__} is not for a worker", "role")
        self._do(self._desk.from_broker(message, now))

    def _allow(self, message: Allowed, now: float) -> None:
        """A key that is taken back must not go on listening."""
        if self._tokens.allow(message.keys):
            self._bind_again(now)

    def _bind_again(self, now: float) -> None:
        """End all connections; who may comes again."""
        for source in self._tokens.sources:
            self._poller.unregister(source)
        self._tokens.bind_again()
        for source in self._tokens.sources:
            self._poller.register(source, zmq.POLLIN)
        self._desk.cut_off(now)
        self._num_topic_bytes = 0

    def _from_front(self, frame: bytes, now: float) -> None:
        kind, topic = frame[:1], frame[1:]
        if kind in (UNSUBSCRIBE, SUBSCRIBE):
            self._num_topic_bytes += len(topic)
            # Of the topic of its tokens, which all know, anybody may say that it was left.
            if (front := prover_of(topic)) is None:
                return
            if kind == SUBSCRIBE:
                self._do(self._desk.subscribed(front, now))
            else:
                self._desk.unsubscribed(front, now)
            return
        message = decode(frame)
        if not isinstance(message, Resume | Ack | Stop | Pause):
            raise WireError(f"{type(message).__name__} is not for the token plane", "role")
        self._do(self._desk.from_front(message, now))

    def _drain(self, socket: "zmq.Socket[bytes]", take: Callable[[bytes, float], None], now: float) -> None:
        """Take some of the frames that wait; a bad one is dropped with a word, and counted."""
        # All before the first is taken: in each call of libzmq the engine's thread may go on, with a part of many jobs.
        for frame in list(waiting(lambda flags: socket.recv(flags, copy=False))):
            try:
                sender_pid(frame)
                take(frame.bytes, now)
            except WireError as error:
                self._num_refused[f"refused_{error.reason}"] += 1
                self._complaints.say(f"dropped a frame: {error}", now)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, ToFront):
                for frame in action.frames:
                    self._tokens.socket.send(action.front + frame, zmq.NOBLOCK)
            elif isinstance(action, ToBroker):
                self._send_broker(encode(action.message))
            elif isinstance(action, AddJob | Drop | Adopt | Retire):
                self._engine.put(action)
            else:
                self._exit(action)

    def _send_broker(self, frame: bytes) -> None:
        try:
            self._work.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            # No broker is connected. The hello that follows its return carries all that this would have said.
            log.debug("no broker to tell")

    def _load_figures(self) -> dict[str, int]:
        figures = self._engine.load_figures or {"loading_percent": round(100 * self._engine.progress)}
        return figures | self._num_refused

    def _on_signal(self, number: int, _frame: object) -> None:
        self._num_stop_signals += 1
        self._must_end = self._must_end or number == signal.SIGINT or self._num_stop_signals > 1

    def _fail(self, failure: BaseException) -> None:
        if isinstance(failure, SetupError):
            self._exit(Exit(2, str(failure)))
        log.critical("the engine has failed", exc_info=failure)
        self._send_broker(encode(Goodbye(self._inc, f"{type(failure).__name__}: {failure}"[:MAX_WORDS])))
        self._exit(Exit(1, "the engine has failed; another process must take over"))

    def _exit(self, action: Exit) -> None:
        """End the process now. Not by unwinding: the engine's thread may sit in a device call that never returns."""
        (log.info if action.code == 0 else log.error)("%s", action.words)
        self._work.disable_monitor()
        self._context.destroy(linger=GOODBYE_MS)
        self._tokens.remove()
        sys.stderr.flush()
        os._exit(action.code)


def make_loader(options: WorkerOptions) -> Loader:
    """What the engine's thread does first: import torch, load the model, size its pool."""

    def load(progress: Callable[[float], None]) -> "tuple[Engine, Card]":
        # A quarter of the time that importing torch and transformers takes is the collector's, which finds nothing.
        gc.disable()
        try:
            # On a CPU others serve meanwhile on the same cores, perhaps the streams of the worker that died before this
            # one. On CUDA all stays in one thread, as little of it is the CPU's work.
            return gently(lambda: build(progress)) if options.device == "cpu" else build(progress)
        finally:
            gc.freeze()
            gc.enable()

    def build(progress: Callable[[float], None]) -> "tuple[Engine, Card]":
        import torch

        from tokenyard.workers.engine import Engine
        from tokenyard.workers.model import EngineOptions, load_model

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        device = options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        engine_options = EngineOptions(
            max_num_seqs=options.max_num_seqs,
            max_batch_tokens=options.max_num_batched_tokens,
            kv_memory=options.kv_memory or "",
            max_model_len=options.max_model_len,
            eager=options.eager,
            compile=options.compile,
            num_drafts=parse_speculate(options.speculate),
            late=options.late,
            num_sharers=options.num_sharers,
            trust_remote_code=options.trust_remote_code,
            quantization=options.quantization if options.quantization != OFF else "",
            step_timeout_s=options.step_timeout,
            max_loras=options.max_loras,
            max_lora_rank=options.max_lora_rank,
        )
        model = load_model(parse_spec(options.spec), device, options.dtype, engine_options, progress)
        return Engine(model, engine_options), model.card

    return load
