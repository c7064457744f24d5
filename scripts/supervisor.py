"""Keeping a pool alive: starts its processes, hears them, tells the broker of deaths, ends them in order.

One thread, one poll loop. It decides little: watch.py says what to start and end, agency.py what to tell the broker.
"""

import logging
import os
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import zmq

from tokenyard.broker import logs, wire
from tokenyard.broker.answers import Collector
from tokenyard.broker.config import BEAT_S, RunDir
from tokenyard.broker.errors import SetupError
from tokenyard.broker.identity import SECRET_BYTES, Identity
from tokenyard.scripts import agency, watch
from tokenyard.scripts.agency import Agency
from tokenyard.scripts.broker_peer import BrokerPeer
from tokenyard.scripts.children import Child, cause_of_death, count_oom_kills, end_strays, start_child
from tokenyard.scripts.on_demand import memory_of
from tokenyard.scripts.placement import WorkerRow, post_of
from tokenyard.scripts.plan import Plan
from tokenyard.scripts.pool_dir import note_broker, pool_dir
from tokenyard.scripts.screen import Screen, describe_worker, pool_facts, time_and_place
from tokenyard.scripts.signals import caught_signals
from tokenyard.scripts.standby import Standbys
from tokenyard.scripts.tie import SECRET, adopt_orphans
from tokenyard.scripts.watch import Role, Watch

log = logging.getLogger(__name__)

STARTING_S = 0.1
"""Between two looks at the pool until it is ready; BEAT_S after that."""
BACKLOG = 2048
"""Connections that wait while a front restarts: uvicorn's default."""
DRAIN_MARGIN_S = 5.0
"""After the streams' time is up, for fronts to cut them and for workers and broker to say goodbye."""
LAST_SIGNAL = signal.SIGUSR1
"""To a front that ends with the pool: no other takes its connections, so it tells them itself (http/main.py)."""
MAX_TROUBLE = 200
"""Letters of a process's last words that status shows: a line of a terminal or two."""


def serve(plan: Plan, given: Path | None) -> int:
    """Run the whole pool until told to end; the exit status. Raises SetupError where it cannot start."""
    if plan.reach.broker is not None:
        raise SetupError("serve runs a broker of its own; for workers of another box's, there is `tokenyard agent`")
    with listen(plan.host, plan.port) as listener, pool_dir(given) as run_dir:
        return Supervisor(plan, run_dir, listener).run()


def agent(plan: Plan, given: Path) -> int:
    """Run the workers of a pool whose broker and fronts are others' children."""
    with pool_dir(given) as run_dir:
        return Supervisor(plan, run_dir, None).run()


def listen(host: str, port: int) -> socket.socket:
    """The socket that all fronts share and that outlives each of them. Raises SetupError where the address is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        words = f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        raise SetupError(words) from error
    return listener


def worker_name(number: int) -> str:
    """What the log and watch.py call the worker of this post."""
    return f"worker {number}"


def number_of(name: str) -> int:
    return int(name.removeprefix("worker "))


class Supervisor:
    """The processes of one pool, or of one box."""

    def __init__(self, plan: Plan, run_dir: RunDir, listener: socket.socket | None) -> None:
        """`listener`: what the fronts share; None for an agent, which has no broker and no fronts."""
        self._plan = plan
        self._run_dir = run_dir
        self._address = plan.reach.address(run_dir.path)
        note_broker(run_dir, self._address)
        self._listener = listener
        self._watch = Watch(plan.drain_timeout_s + DRAIN_MARGIN_S, plan.on_demand)
        self._children: dict[str, Child] = {}
        """Those that live, by their post's name."""
        self._rows: dict[str, WorkerRow] = {}
        """Where and what each worker post is."""
        self._on_demand: set[str] = set()
        """Worker posts for whose model somebody waits."""
        self._num_starts: Counter[str] = Counter()
        """Of each worker post."""
        self._num_workers = 0
        """Worker posts so far: a name is never used again."""
        me, memory_bytes = Identity.of(secrets.token_bytes(SECRET_BYTES)), memory_of(plan.devices)
        self._agency = Agency(me, os.getpid(), plan.places, plan.slots, memory_bytes)
        self._standbys = Standbys(plan.places if plan.standby else [])
        self._num_oom_kills = count_oom_kills()
        """As of the last look."""
        self._statuses = Collector()
        self._is_answered = True
        """Whether the broker has answered since the last look."""
        self._next_look_s = 0.0
        self._is_announced = listener is None
        """Whether the banner was shown; an agent has none."""
        self._over: watch.Over | None = None

    def run(self) -> int:
        """Until drained, told to end, or nothing useful is left to keep alive; the exit status."""
        adopt_orphans()
        with caught_signals() as signals, zmq.Context() as context:
            self._work = BrokerPeer(context, self._address, is_agent=True)
            self._control = BrokerPeer(context, self._address)
            self._screen = Screen()
            logs.setup("supervisor", self._plan.log_level.upper())
            try:
                self._add_posts(time.monotonic())
                while self._over is None:
                    self._turn(signals)
                log.log(logging.ERROR if self._over.status == 1 else logging.INFO, "ending: %s", self._over.words)
                return self._over.status
            finally:
                self._end_all()
                self._screen.close()
                context.destroy()

    def _turn(self, signals: socket.socket) -> None:
        """Do what is due, wait for something to happen, do what follows."""
        self._do(self._watch.tick(time.monotonic()))
        self._look(time.monotonic())
        poller = zmq.Poller()
        for source in (self._work.socket, self._control.socket, signals):
            poller.register(source, zmq.POLLIN)
        for child in (*self._children.values(), *self._standbys):
            for descriptor in child.descriptors:
                poller.register(descriptor, zmq.POLLIN)
        due = self._watch.next_due()
        wake_s = self._next_look_s if due is None else min(self._next_look_s, due)
        ready = dict(poller.poll(max(0, ceil(1000 * (wake_s - time.monotonic())))))
        now = time.monotonic()
        for name, child in list(self._children.items()):
            if child.log in ready:  # its death may come in the same turn
                self._screen.write(child.read_lines())
            if child.rings(ready):
                self._answer(self._agency.dying(child.inc), now)
            if child.death in ready:
                self._bury(name, now)
        for child in self._standbys:
            if child.log in ready:
                self._screen.write(child.read_lines())
            child.rings(ready)
            if child.death in ready:
                self._standbys.bury(child)
        for message in self._work.receive():
            self._answer(self._agency.heard(message), now)
        for message in self._control.receive():
            if isinstance(message, wire.Answer) and (status := self._statuses.take(message)):
                self._take_status(status.body, now)
        if signals.fileno() in ready:
            self._take_signals(signals.recv(64), now)

    def _look(self, now: float) -> None:
        """A sign of life to the broker and a question about the pool, each beat."""
        if now < self._next_look_s:
            return
        self._next_look_s = now + (BEAT_S if self._is_announced else STARTING_S)
        if self._is_announced and not self._is_answered:
            self._do(self._watch.missed("broker"))
        self._is_answered = False
        self._num_oom_kills = count_oom_kills()
        self._work.send(wire.Ping(self._agency.inc))
        self._control.send(wire.Status(0, self._agency.workers))

    # What watch.py wants

    def _add_posts(self, now: float) -> None:
        for row in self._plan.workers:
            self._add_worker(row, now, is_named=True)
        if self._listener is not None:
            self._watch.add("broker", Role.BROKER, now)
            for index in range(self._plan.num_fronts):
                self._watch.add(f"front {index}", Role.FRONT, now)

    def _add_worker(self, row: WorkerRow, now: float, is_named: bool) -> str:
        number, self._num_workers = self._num_workers, self._num_workers + 1
        name = worker_name(number)
        self._rows[name] = row
        self._agency.added(post_of(row, number, is_named))
        self._watch.add(name, Role.WORKER, now)
        return name

    def _do(self, actions: Sequence[watch.Action]) -> None:
        for action in actions:
            match action:
                case watch.Start(name):
                    try:
                        self._start(name)
                    except OSError as error:  # no memory, or no process number is left: later there may be
                        self._not_started(name, f"it cannot be started: {error.strerror}", time.monotonic())
                    self._answer(self._agency.troubled(self._watch.troubles()), time.monotonic())
                case watch.Terminate(name):
                    self._children[name].send(LAST_SIGNAL if name.startswith("front") else signal.SIGTERM)
                case watch.HandOver(name):
                    log.info("%s hands its streams over", name)
                    self._children[name].send(signal.SIGINT)
                case watch.Kill(name, words):
                    self._children[name].verdict = words
                    self._children[name].kill()
                case watch.Retired(name, words):
                    self._answer(self._agency.retired(number_of(name), words), time.monotonic())
                case watch.GaveUp(name, words):
                    log.error("%s %s", name, words)
                case watch.Over():
                    self._over = self._over or action

    def _start(self, name: str) -> None:
        run_dir = self._run_dir.path
        inc, secret = Identity.of(secrets.token_bytes(SECRET_BYTES))
        if name in self._rows:
            arguments = self._plan.worker_arguments(run_dir, self._rows[name])
            if name in self._on_demand:
                arguments.append("--late")
            # The secret goes by ways that only this user can read; arguments are there for all.
            standby = self._standbys.take(self._rows[name].place, [*arguments, "--secret", secret.hex()], inc)
            self._children[name] = standby or start_child(arguments, inc, {SECRET: secret.hex()}, has_bells=True)
            started = self._agency.started(number_of(name), inc, self._num_starts[name], secret)
            self._answer(started, time.monotonic())
            self._num_starts[name] += 1
        elif name == "broker":
            self._children[name] = start_child(self._plan.broker_arguments(run_dir), inc)
        else:
            assert self._listener is not None
            fd = self._listener.fileno()
            arguments = self._plan.front_arguments(run_dir, fd, int(name.removeprefix("front ")))
            self._children[name] = start_child(arguments, inc, self._plan.front_environment(), (fd,))

    def _not_started(self, name: str, words: str, now: float) -> None:
        log.warning("%s: %s", name, words)
        self._do(self._watch.died(name, 1, now, words=f"{time_and_place(self._rows.get(name))}: {words}"))
        if name not in self._watch.posts and name in self._rows:
            self._answer(self._agency.dropped(number_of(name)), now)
            self._forget(name)

    def _bury(self, name: str, now: float) -> None:
        """Take note of a death: to the broker first, which waits for its cause."""
        child = self._children.pop(name)
        lines = child.read_lines()
        status = child.reap()
        cause, words = cause_of_death(status, child.last_line, count_oom_kills() - self._num_oom_kills)
        if verdict := self._agency.verdict(child.inc) or child.verdict:
            cause, words = "crash", verdict
        elif child.is_unwanted and cause == "killed":
            words = "killed as asked"
        told = f"{time_and_place(self._rows.get(name))}: {words[:MAX_TROUBLE]}"
        actions = self._watch.died(name, status, now, cause == "killed", told)
        if name in self._rows:
            final = name not in self._watch.posts
            self._answer(self._agency.ended(number_of(name), cause, words, final), now)
        self._screen.write(lines)
        end_strays({child.pid for child in (*self._children.values(), *self._standbys)})
        if cause == "crash" or (cause == "killed" and not self._watch.is_draining):
            log.warning("%s (pid %d): %s", name, child.pid, words)
        self._do(actions)
        self._answer(self._agency.troubled(self._watch.troubles()), now)
        if name not in self._watch.posts:
            self._forget(name)

    def _forget(self, name: str) -> None:
        """This post is no more."""
        self._rows.pop(name, None)
        self._on_demand.discard(name)
        self._num_starts.pop(name, None)

    def _end_all(self) -> None:
        """Leave nothing behind: no child, no grandchild."""
        self._standbys.end_all()
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            child.reap()
        self._children.clear()
        end_strays(set())

    # What the broker wants

    def _answer(self, actions: Sequence[agency.Action], now: float) -> None:
        for action in actions:
            match action:
                case agency.Send(message):
                    self._work.send(message)
                case agency.StartWorker():
                    self._spawn(action, now)
                case agency.DismissPost(number):
                    self._dismiss(worker_name(number), now)
                case agency.RetireWorker():
                    self._retire(action, now)
                case agency.KillWorker(inc):
                    child = next(child for child in self._children.values() if child.inc == inc)
                    child.is_unwanted = True
                    child.kill()
                case agency.Say(words):
                    log.warning("%s", words)

    def _spawn(self, wanted: agency.StartWorker, now: float) -> None:
        try:
            if self._watch.is_draining:
                raise SetupError("this box is draining")
            row = self._plan.place_one(wanted.model, wanted.device, list(self._rows.values()))
        except SetupError as error:
            self._answer(self._agency.failed(wanted.req, secrets.token_bytes(wire.INC_BYTES), str(error)), now)
            return
        name = self._add_worker(row, now, is_named=not wanted.on_demand)
        if wanted.on_demand:
            self._on_demand.add(name)
        self._do(self._watch.tick(now))
        if name in self._children:
            self._answer(self._agency.spawned(wanted.req, self._children[name].inc), now)
            return
        self._dismiss(name, now)
        inc = secrets.token_bytes(wire.INC_BYTES)
        self._answer(self._agency.failed(wanted.req, inc, "its process cannot be started"), now)

    def _dismiss(self, name: str, now: float) -> None:
        self._do(self._watch.dismiss(name))
        if name not in self._watch.posts:
            self._forget(name)
            self._answer(self._agency.dropped(number_of(name)), now)

    def _retire(self, wanted: agency.RetireWorker, now: float) -> None:
        """Its successor starts beside it where there is room for both: a GPU's memory is rarely shared."""
        name = worker_name(wanted.number)
        if self._watch.is_draining or self._watch.is_awaited(name):
            words = "this box is draining" if self._watch.is_draining else "it has just begun to take another's place"
            self._answer(self._agency.retired(wanted.number, words), now)
            return
        row, successor = self._rows[name], ""
        if wanted.successor == "before" or (wanted.successor == "auto" and row.gpu is None):
            number, self._num_workers = self._num_workers, self._num_workers + 1
            successor = worker_name(number)
            self._rows[successor] = row
            self._answer(self._agency.succeeds(number, wanted.number), now)
        elif wanted.successor != "none":
            successor = name
            self._answer(self._agency.succeeds(wanted.number, wanted.number), now)
        self._do(self._watch.retire(name, successor, wanted.timeout_s, now))

    # What the operator wants

    def _take_signals(self, numbers: bytes, now: float) -> None:
        for number in numbers:
            signum = signal.Signals(number)
            if signum is not signal.SIGTERM:
                self._over = watch.Over(128 + number, signum.name)  # the status that shells give a signal's victim
                return
            log.info("draining; SIGTERM again or Ctrl-C ends at once")
            self._standbys.end_all()
            if self._listener is not None:
                self._listener.close()  # with the fronts' own copies gone, new connections are refused
            self._do(self._watch.drain(now))

    def _take_status(self, body: dict[str, Any], now: float) -> None:
        """The pool as the broker sees it: note who is ready and who is silent, show how far the others are."""
        self._is_answered = True
        # By incarnation: a pid may be that of another box's worker, too.
        workers = {worker["inc"]: describe_worker(worker) for worker in body["workers"]}
        fronts = {front["pid"]: "ready" for front in body["fronts"]}
        waiting: dict[str, str] = {}
        for name, child in self._children.items():
            state = "ready" if name == "broker" else workers.get(child.inc.hex()) or fronts.get(child.pid)
            if state == "ready":
                self._do(self._watch.ready(name, now))
            else:
                waiting[name] = state or "starting"
            if state is None and self._is_announced:
                self._do(self._watch.missed(name))
        if not waiting and not self._watch.is_draining:
            self._standbys.start_missing()
        if self._is_announced or self._listener is None or self._watch.is_draining:
            return
        self._screen.progress(waiting)
        if not waiting and len(self._children) == len(self._watch.posts):
            self._is_announced = True
            self._screen.banner(*pool_facts(self._plan, self._run_dir, self._listener.getsockname()[1], body))
