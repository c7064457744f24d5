"""The broker's decisions: who is there, who is alive, what each message leads to. Sans-IO.

`handle(peer, message, now)`, `gone(peer, now)` and `tick(now)` return the messages to send; `next_tick_s` says when to
call `tick` again at the latest. A peer is an opaque name of a connection. This file must not know of sockets, clocks or
randomness; gate.py says who may speak for whom, jobs.py has a job's life, membership.py who serves a model together.
"""

import logging
from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from tokenyard.broker import wire
from tokenyard.broker.adapters import Adapters
from tokenyard.broker.claims import Claims
from tokenyard.broker.config import BEAT_S, GRACE_S
from tokenyard.broker.control import Control
from tokenyard.broker.deaths import Deaths
from tokenyard.broker.errors import WireError
from tokenyard.broker.gate import Gate
from tokenyard.broker.invariants import check_state
from tokenyard.broker.jobs import Jobs
from tokenyard.broker.loads import Loads
from tokenyard.broker.membership import Membership
from tokenyard.broker.progress import HUNG, Progress
from tokenyard.broker.records import Agent, Front, Peer, State, Worker
from tokenyard.broker.retiring import Retiring
from tokenyard.broker.room import DEFAULT_POLICY, Policy
from tokenyard.broker.silence import Silence
from tokenyard.broker.wire import Message

SWEEP_S = BEAT_S / 2
"""Between two looks at who is silent: adds an eighth at most to SILENCE_S."""

QUEUE_LIMIT = 1024
"""Fresh jobs waiting in one broker: four times the largest decode batch of one worker."""

LOAD_TIMEOUT_S = 600.0
"""How long the jobs of a model without a worker wait: a 70B model from a slow disk loads in about five minutes."""

WELCOME_WORKERS = 16
"""In one Welcome: with cards as large as they may be (gate.py, adapters.py) it is below MAX_MESSAGE_BYTES."""

log = logging.getLogger("broker")

Actions = list[tuple[bytes, Message]]


class Core:
    """One broker's life. `awaited`: the workers that seem to live already; until they have spoken nothing is placed."""

    def __init__(
        self,
        epoch: bytes,
        now: float,
        pid: int = 0,
        awaited: Iterable[bytes] = (),
        queue_limit: int = QUEUE_LIMIT,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        policy: Policy = DEFAULT_POLICY,
        adapters: Iterable[wire.Adapter] = (),
    ) -> None:
        self._state = state = State(epoch, queue_limit, load_timeout_s, now, grace_until_s=now + GRACE_S)
        self._jobs = Jobs(state)
        self._claims = Claims(state, self._jobs)
        self._loads = Loads(state, self._jobs, policy)
        self._membership = Membership(state, self._jobs, self._loads)
        self._adapters = Adapters(state, self._jobs, adapters)
        self._progress = Progress(state, self._jobs)
        self._control = Control(state, pid, now, self._loads.describe, self._adapters.describe)
        self._retiring = Retiring(state)
        self._silence = Silence()
        self._awaited = set(awaited)
        self._deaths = Deaths(state, self._jobs)
        self._gate = Gate(state, self._silence, self._deaths)
        self._next_sweep_s = now + SWEEP_S
        self._grace_over = False
        self._handlers: dict[type[Any], Callable[[bytes, Any], None]] = {
            wire.FrontHello: self._front_hello,
            wire.WorkerHello: self._worker_hello,
            wire.AgentHello: self._agent_hello,
            wire.Goodbye: self._goodbye,
            wire.Status: self._control.status,
            wire.DrainWorker: self._retiring.drain,
            wire.KillWorker: self._control.kill,
            wire.UnloadModel: self._loads.unload,
            wire.AddAdapter: self._adapters.add,
            wire.RemoveAdapter: self._adapters.remove,
        }
        self._from_front: dict[type[Any], Callable[[Front, Any], None]] = {
            wire.Ping: lambda front, ping: None,
            wire.Submit: self._submit,
            wire.Want: self._loads.want,
            wire.Cancel: lambda front, cancel: self._jobs.cancel(front, cancel.job),
        }
        self._from_worker: dict[type[Any], Callable[[Worker, Any], None]] = {
            wire.Beat: self._beat,
            wire.Done: self._jobs.done,
            wire.AdapterFailed: self._adapters.failed,
        }
        self._from_agent: dict[type[Any], Callable[[Agent, Any], None]] = {
            wire.Ping: lambda agent, ping: None,
            wire.Spawned: self._spawned,
            wire.Dying: self._dying,
            wire.Exited: self._exited,
            wire.Retired: self._retiring.retired,
        }
        self._settle_if_complete()

    # ---- events

    def handle(self, peer: bytes, message: Message, now: float) -> Actions:
        """A message has come from `peer`."""
        state = self._state
        self._look_at(now)
        kind = type(message)
        sender = state.peers.get(peer)
        if handler := self._handlers.get(kind):
            handler(peer, message)
        elif sender is None:
            state.send(peer, wire.Who(state.epoch))
        else:
            sender.heard_s = now
            self._handle_known(sender, message)
        return self._take_actions()

    def gone(self, peer: bytes, now: float) -> Actions:
        """The connection or the process behind `peer` has ended."""
        self._look_at(now)
        if sender := self._state.peers.get(peer):
            self._forget(sender, "its process or connection ended")
        return self._take_actions()

    def tick(self, now: float) -> Actions:
        """Do what time alone makes due."""
        self._look_at(now)
        self._jobs.expire_deadlines()
        self._deaths.tick()
        if now >= self._next_sweep_s:
            self._sweep()
        self._loads.tick()
        return self._take_actions()

    def note_refused(self, error: WireError) -> None:
        """A message was refused before it came here."""
        self._state.num_refused[error.reason] += 1

    def workers_on_tcp(self) -> list[bytes]:
        """Incarnations whose tokens are to be had on tcp, perhaps on another machine."""
        return sorted(one.inc for one in self._state.workers.values() if one.endpoint.startswith("tcp://"))

    @property
    def next_tick_s(self) -> float:
        """When `tick` has something to do again, at the latest."""
        grace_s = inf if self._grace_over else self._state.grace_until_s
        return min(
            self._next_sweep_s,
            self._deaths.next_tick_s,
            grace_s,
            self._jobs.next_deadline_s(),
            self._loads.next_look_s,
        )

    def check(self) -> None:
        """Assert all invariants; for tests, after every event."""
        check_state(self._state)
        self._membership.check()
        self._adapters.check()
        self._loads.check()
        self._deaths.check()
        assert len(self._silence) == len(self._state.peers), "somebody's silence is not looked for"

    def _handle_known(self, sender: Peer, message: Message) -> None:
        match sender:
            case Front():
                handler: Any = self._from_front.get(type(message))
            case Worker():
                handler = self._from_worker.get(type(message))
            case Agent():
                handler = self._from_agent.get(type(message))
        if handler:
            handler(sender, message)
        else:
            words = f"a {type(sender).__name__.lower()} does not send {type(message).__name__}"
            self._state.refuse(sender.peer, words, "role")

    def _look_at(self, now: float) -> None:
        """The time of the event at hand; what comes after the grace must not find it going on."""
        self._state.now = now
        if now >= self._state.grace_until_s and not self._grace_over:
            self._end_grace()

    def _take_actions(self) -> Actions:
        actions, self._state.out = self._state.out, []
        return actions

    def _submit(self, front: Front, submit: wire.Submit) -> None:
        self._jobs.submit(front, submit)
        if model := self._state.models.get(self._state.base_of(submit.model)):
            self._loads.bring_back(model)

    # ---- who is there

    def _front_hello(self, peer: bytes, hello: wire.FrontHello) -> None:
        state = self._state
        if not self._gate.admits(peer, hello):
            return
        front = state.fronts.setdefault(hello.inc, Front(hello.inc))
        if not front.peer:
            log.info("front %s is here (pid %d, %d jobs)", hello.inc.hex(), hello.pid, len(hello.jobs))
        front.pid = hello.pid
        self._gate.register(peer, front)
        self._welcome(front)
        for job, attempt in hello.jobs:
            self._claims.claim(front, job, attempt)
        if state.settled:
            self._claims.settle(front)

    def _welcome(self, front: Front) -> None:
        """Tell it of all workers, in as many messages as no frame's limit is near."""
        state = self._state
        ups = [worker.info for worker in state.workers.values() if worker.card is not None]
        for index in range(0, max(1, len(ups)), WELCOME_WORKERS):
            more = index + WELCOME_WORKERS < len(ups)
            state.send(front.peer, wire.Welcome(state.epoch, ups[index : index + WELCOME_WORKERS], more))

    def _worker_hello(self, peer: bytes, hello: wire.WorkerHello) -> None:
        state = self._state
        if not self._gate.admits(peer, hello):
            return
        worker = state.workers.get(hello.inc)
        if worker is None:
            worker = Worker(hello.inc, b"", hello.pid, hello.name, hello.endpoint, hello.capacity, hello.state, None, 0)
            state.workers[hello.inc] = worker
            self._deaths.revoke(hello.inc)
            self._progress.is_back(hello.inc)
            worker.stepped_s = state.now
            log.info("worker %s %s is here (pid %d, %s)", hello.inc.hex(), hello.name, hello.pid, hello.state)
        self._gate.register(peer, worker)
        worker.capacity, worker.endpoint, worker.name = hello.capacity, hello.endpoint, hello.name
        worker.state = HUNG if worker.stuck else hello.state
        worker.key = hello.key
        held = hello.card.adapters if hello.card is not None else []
        if hello.card is not None:
            self._adapters.learn(hello.card.names[0], held)
            if worker.card is None:
                self._membership.offer(worker, hello.card)
        self._adapters.heard(worker, held)
        self._claims.reconcile(worker, hello.jobs)
        self._awaited.discard(hello.inc)
        self._settle_if_complete()

    def _agent_hello(self, peer: bytes, hello: wire.AgentHello) -> None:
        if not self._gate.admits(peer, hello):
            return
        agent = self._state.agents.get(hello.inc)
        if agent is None:
            agent = self._state.agents[hello.inc] = Agent(hello.inc, b"", hello.pid, hello.devices, set(), 0)
            log.info("agent %s is here (pid %d)", hello.inc.hex(), hello.pid)
        self._gate.register(peer, agent)
        agent.devices = hello.devices
        self._gate.note_workers(agent, hello)
        agent.restarts = dict(zip(hello.workers, hello.restarts, strict=False))
        agent.posts = {post.number: post for post in hello.posts}
        agent.slots = dict(zip(hello.devices, hello.slots, strict=False))
        agent.memory_bytes = dict(zip(hello.devices, hello.memory_bytes, strict=False))
        self._loads.agent_spoke(agent)
        agent.troubles = hello.troubles

    # ---- who is alive

    def _beat(self, worker: Worker, beat: wire.Beat) -> None:
        if not self._gate.understands(worker, beat):
            return
        worker.load = beat.load
        if worker.patience_s != (patience_s := beat.patience_ms / 1000):
            worker.patience_s = patience_s
            self._silence.watch(worker)
        worker.emitted.append((self._state.now, beat.load.get("emitted_tokens", 0)))
        worker.state = beat.state
        self._progress.beat(worker, beat)
        self._claims.reconcile(worker, beat.jobs)

    def _goodbye(self, peer: bytes, goodbye: wire.Goodbye) -> None:
        sender = self._state.peers.get(peer)
        if sender is not None and sender.inc == goodbye.inc:
            words = f"it fails: {goodbye.crash}" if goodbye.crash else "it said goodbye"
            self._forget(sender, words, lost=bool(goodbye.crash))
            self._deaths.explain(goodbye.inc, is_crash=bool(goodbye.crash))
        elif sender is not None or self._state.is_here(goodbye.inc):
            self._state.refuse(peer, f"nobody but {goodbye.inc.hex()} says its goodbye", "identity")

    def _spawned(self, agent: Agent, spawned: wire.Spawned) -> None:
        """One that was not asked of this agent is a repeat: its hellos tell of its workers, too."""
        if self._loads.spawned(agent, spawned):
            self._state.own(agent, spawned.inc)

    def _exited(self, agent: Agent, exited: wire.Exited) -> None:
        """The agent has reaped a worker: `Lost` need wait no longer, and a crash counts, however late the word."""
        if not self._gate.owns(agent, exited.inc):
            return
        if worker := self._state.workers.get(exited.inc):
            self._forget(worker, f"{exited.cause}: {exited.words}", lost=exited.cause != "drained")
        self._loads.exited(agent, exited)
        self._state.disown(agent, exited.inc)
        self._progress.is_back(exited.inc)
        self._deaths.explain(exited.inc, is_crash=exited.cause == "crash")

    def _dying(self, agent: Agent, dying: wire.Dying) -> None:
        """The agent sees it long before the kernel has taken the process down, and can tell why."""
        worker = self._state.workers.get(dying.inc)
        if self._gate.owns(agent, dying.inc) and worker is not None:
            self._forget(worker, "its process is dying", lost=worker.state != "draining", is_early=True)

    def _forget(self, sender: Peer, words: str, lost: bool = True, is_early: bool = False) -> None:
        """It is no longer here; `lost`: not on purpose; `is_early`: nobody can know why yet."""
        state = self._state
        state.peers.pop(sender.peer, None)
        self._silence.forget(sender)
        log.info("%s %s is gone: %s", type(sender).__name__.lower(), sender.inc.hex(), words)
        match sender:
            case Front():
                del state.fronts[sender.inc]
                self._jobs.drop_all(sender)
            case Agent():
                del state.agents[sender.inc]
                for inc in list(sender.workers):
                    state.disown(sender, inc)
                self._loads.agent_gone(sender)
            case Worker():
                if lost:
                    state.note_lost(sender.card.names[0] if sender.card else sender.name)
                self._bury(sender, is_early)

    def _bury(self, worker: Worker, is_early: bool) -> None:
        """Tell the fronts at once that it is down; `Lost` waits a moment for the agent's word on why."""
        state = self._state
        del state.workers[worker.inc]
        self._awaited.discard(worker.inc)
        lost: list[wire.WorkerJob] = []
        if model := worker.model:
            lost = self._jobs.lose(worker)
            model.leave(worker, state.now + state.load_timeout_s)
            state.tell_fronts(wire.WorkerDown(worker.inc))
        name = model.name if model else ""
        self._deaths.add(worker.inc, lost, name, is_early, is_owned=worker.inc in state.owners)
        self._membership.left(worker)
        self._adapters.worker_gone(worker)
        self._settle_if_complete()
        if model:
            self._jobs.dispatch(model)

    # ---- by time

    def _settle_if_complete(self) -> None:
        state = self._state
        if state.settled or self._awaited:
            return
        state.settled = True
        for front in state.fronts.values():
            self._claims.settle(front)
        for model in state.models.values():
            self._jobs.dispatch(model)

    def _end_grace(self) -> None:
        state = self._state
        self._grace_over = True
        self._awaited.clear()
        for front in list(state.fronts.values()):
            self._claims.drop_unconfirmed(front)
            if not front.peer:
                del state.fronts[front.inc]
        self._settle_if_complete()

    def _sweep(self) -> None:
        """Find who is silent, which models no worker came back for, and what can be forgotten."""
        state = self._state
        now = state.now
        if now - self._next_sweep_s > BEAT_S:  # we were stopped ourselves: nobody had a chance to be heard
            for sender in state.peers.values():
                sender.heard_s = now
            self._progress.excuse()
        self._next_sweep_s = now + SWEEP_S
        for sender in self._silence.overdue(now):
            self._forget(sender, f"silent for {now - sender.heard_s:.1f} s")
            if isinstance(sender, Worker):
                self._deaths.remember(sender.inc, self._progress.is_silent(sender))
        self._progress.sweep()
        for model in list(state.models.values()):
            if model.known_until_s <= now and model.name not in self._loads:
                del state.models[model.name]
                code = "pool_unavailable" if model.served else "model_not_found"
                self._jobs.reject_queued(model, code, f"no worker came for {model.name!r}")
        self._jobs.forget_models()
        self._loads.sweep()
        self._adapters.sweep()
        self._jobs.forget_ended()
        self._retiring.forget_answered()
        self._deaths.sweep()
