"""What the broker remembers: one class per kind of peer, the job, and the state that holds them.

Plain data and sums over it. Decisions live in dispatch.py (where), jobs.py (a job's life), core.py (peers, time) and
control.py (the operator). Nothing here may know of sockets or clocks: `State.now` is given with every event.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from itertools import count
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from tokenyard.broker.wire import (
    PLAIN,
    Abort,
    Accepted,
    Adapter,
    AdapterKey,
    Card,
    Lost,
    Message,
    Placed,
    Post,
    Refused,
    Reject,
    Submit,
    WorkerInfo,
    WorkerJob,
)

if TYPE_CHECKING:
    from tokenyard.broker.dispatch import Model

CPU = "cpu"
"""As agents call it among their devices; all others are GPUs."""
MAX_MODELS = 4096
"""Names that jobs wait for, that are served, or were lately; and models remembered with their MODEL_SPEC: more than
anybody takes turns with."""
MAX_NAME = 4608
"""Letters of a model's name or MODEL_SPEC: a path has at most 4,096 (PATH_MAX), options need no more than the rest."""
MAX_CRASHES = 3
"""Counted attempts that fail a job (docs/protocol.md, Jobs)."""


OTHERS = "others"
RATE_BEATS = 5
"""A worker's tokens per second are those of two seconds: steadier than one beat, still as of now."""


class Lane(IntEnum):
    """Which jobs may share a worker: those under the same suspicion, so that a poisoned one takes no clean one along.

    The last lane runs one job at a time: of many that crashed together, only the guilty one crashes alone.
    """

    CLEAN = 0
    SUSPECT = 1
    ALONE = 2

    @staticmethod
    def of(crashes: int) -> "Lane":
        return Lane(min(crashes, Lane.ALONE))


class Phase(Enum):
    """Of one attempt. Queued → placed → ended, or queued → ended; a newer attempt starts over."""

    QUEUED = "queued"
    PLACED = "placed"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Job:
    """The newest attempt of one front's job."""

    front: "Front"
    number: int
    attempt: int
    crashes: int
    """Attempts so far that ended with a crash of the worker's own."""
    phase: Phase
    answer: Accepted | Placed | Reject | Lost
    """What a repeat of its Submit gets: the state it has."""
    submit: Submit | None = None
    """None once placed (the payload has gone on) and when adopted from a worker's claim."""
    model: "Model | None" = None
    """Set while queued."""
    adapter: AdapterKey = PLAIN
    """What it is to be computed with; of an unknown version while no worker has the adapter."""
    identity: tuple[str, str] | None = None
    """Of the model that has begun to answer it (membership.py); only its like may go on."""
    lane: Lane = Lane.CLEAN
    """The queue it stands in; `crashes` may be higher when it was raised after placing."""
    deadline_s: float = inf
    """When it must have left the queue; inf once it has."""
    worker: "Worker | None" = None
    """Set while placed."""
    confirmed: bool = True
    """False: adopted from a worker's claim, and its front has not yet spoken for it."""

    @property
    def key(self) -> WorkerJob:
        return WorkerJob(self.front.inc, self.number, self.attempt)


@dataclass(slots=True)
class Placement:
    """One attempt that holds a credit of one worker, until the worker says that it has left."""

    placed_s: float
    listed_in: int
    """Which of the worker's claims listed it last, or came last when it was placed."""
    job: Job | None = None
    """Whose attempt it is; None once told to go: nobody waits for it any more."""


@dataclass(slots=True, eq=False)
class Front:
    inc: bytes
    peer: bytes = b""
    """Empty: known only from a worker's claim after a restart of the broker."""
    pid: int = 0
    heard_s: float = 0.0
    jobs: dict[int, Job] = field(default_factory=dict)
    claims: dict[int, int] = field(default_factory=dict)
    """Job → attempt: claimed in a hello, not found here, decided when all workers have spoken."""


@dataclass(slots=True, eq=False)
class Worker:
    inc: bytes
    peer: bytes
    pid: int
    name: str
    endpoint: str
    capacity: int
    state: str
    """loading, ready or draining, as the worker says; hung, as progress.py says."""
    card: Card | None
    heard_s: float
    # First what each job touches, so that it lies together: in a large pool its cost is that of far memory.
    placements: dict[WorkerJob, Placement] = field(default_factory=dict)
    num_claims: int = 0
    """Beats and hellos so far, which list its jobs."""
    model: "Model | None" = None
    """Set when it has a card."""
    lane: Lane = Lane.CLEAN
    """Whose jobs run on it; free to change when nothing does."""
    listed: Lane | None = None
    """Whose jobs it is offered to (dispatch.LoadIndex); None: it takes none now."""
    bucket: int = 0
    """At which load, while it is listed."""
    before: "Worker | None" = None
    after: "Worker | None" = None
    """Its neighbours among those that are listed there."""
    key: str = ""
    """As in WorkerHello."""
    patience_s: float = 0.0
    """How long it may be silent where that is longer than SILENCE_S."""
    step: int = 0
    step_s: float = 0.0
    """How long the step at hand may last; 0: it is in none."""
    stepped_s: float = 0.0
    """When it was last seen to go on."""
    stuck: str = ""
    """Why it is given up, as long as it stays in one step (progress.py)."""
    load: dict[str, int] = field(default_factory=dict)
    emitted: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_BEATS))
    """(when, tokens drawn so far) of the last beats."""
    offer: Card | None = None
    """The card of a worker that is kept out (membership.py): it has loaded, and serves nobody yet."""
    kept_out: str = ""
    """Why."""
    waits_for: str = ""
    """The name that must be free before it is looked at again."""
    held: list[Adapter] = field(default_factory=list)
    """Those that it has loaded; its card shows what all of its model's workers are to have (adapters.py)."""
    adapters: set[AdapterKey] = field(default_factory=set)
    """The same, as jobs ask for them."""

    @property
    def credit(self) -> int:
        return max(0, self.capacity - len(self.placements))

    @property
    def tokens_per_s(self) -> float:
        """Over the last beats."""
        if len(self.emitted) < 2:
            return 0.0
        (began_s, before), (ended_s, after) = self.emitted[0], self.emitted[-1]
        return (after - before) / (ended_s - began_s) if ended_s > began_s else 0.0

    @property
    def info(self) -> WorkerInfo:
        assert self.card is not None
        return WorkerInfo(self.inc, self.endpoint, self.card, self.key)


@dataclass(slots=True, eq=False)
class Agent:
    inc: bytes
    peer: bytes
    pid: int
    devices: list[str]
    workers: set[bytes]
    """Incarnations of its living workers."""
    heard_s: float
    restarts: dict[bytes, int] = field(default_factory=dict)
    """How many lives the place of each had before."""
    posts: dict[int, Post] = field(default_factory=dict)
    """By number, as it last told."""
    slots: dict[str, int] = field(default_factory=dict)
    """How many posts each device may have."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """What all workers of a device together may take, where it tells."""
    troubles: list[str] = field(default_factory=list)
    """What it says of deaths, for people."""


@dataclass(slots=True)
class Death:
    """A worker that is gone, kept a while for the agent's word on why."""

    jobs: list[WorkerJob]
    """What it took along."""
    forget_s: float
    model: str = ""
    is_puzzle: bool = False
    """Its process was seen to die before it could be known why (deaths.py)."""
    counted: bool = False
    """Whether its crash has been counted against its jobs."""


@dataclass(slots=True)
class Offered:
    """An adapter that requests may ask for."""

    adapter: Adapter
    words: str = ""
    """Why no worker has it, where it could not be loaded."""

    def refusal(self, version: str) -> str:
        """Why a job cannot have it; empty where it can. `version`: of the tokens that it has emitted."""
        has_changed = version and self.adapter.version not in ("", version)
        return changed_words(self.adapter.name) if has_changed else self.words


class Recipe(NamedTuple):
    """How to load a model."""

    model: str
    spec: str
    weight_bytes: int
    """0: unknown."""
    cpu_bytes: int = 0
    """0: as many."""

    def bytes_on(self, device: str) -> int:
        """What its weights take there; 0: unknown."""
        return (self.cpu_bytes if device == CPU else 0) or self.weight_bytes


Peer = Front | Worker | Agent


@dataclass(slots=True)
class State:
    """All that the broker knows, and the actions that the event at hand has led to so far."""

    epoch: bytes
    queue_limit: int
    load_timeout_s: float
    now: float
    """Time of the event being handled; the clock is the caller's."""
    grace_until_s: float
    """Until then a job that only a worker knows is taken over, not aborted."""
    settled: bool = False
    """Whether all awaited workers have spoken: until then nothing is placed, lest a job that runs already run twice."""
    out: list[tuple[bytes, Message]] = field(default_factory=list)
    peers: dict[bytes, Peer] = field(default_factory=dict)
    fronts: dict[bytes, Front] = field(default_factory=dict)
    workers: dict[bytes, Worker] = field(default_factory=dict)
    agents: dict[bytes, Agent] = field(default_factory=dict)
    owners: dict[bytes, Agent] = field(default_factory=dict)
    """Of each worker that an agent has, living or starting: the agent."""
    models: dict[str, "Model"] = field(default_factory=dict)
    recipes: OrderedDict[str, Recipe] = field(default_factory=OrderedDict)
    """Of models that can be loaded, latest last (loads.py)."""
    adapters: dict[str, Offered] = field(default_factory=dict)
    """By name (adapters.py)."""
    num_queued: int = 0
    num_lost: Counter[str] = field(default_factory=Counter)
    """Workers that died without having been asked to, by model; by name where they were loading."""
    num_refused: Counter[str] = field(default_factory=Counter)
    """Messages, by reason (errors.REFUSALS)."""
    deadlines: list[tuple[float, int, Job]] = field(default_factory=list)
    """Heap of (deadline_s, tie-break, job); an entry is stale once the job's own deadline differs."""
    ended: deque[tuple[float, Job]] = field(default_factory=deque)
    """(when to forget it, job), oldest first; stale where the front's record has moved on."""
    reqs: Iterator[int] = field(init=False)
    """Numbers for Spawns. They start anew with each broker, so that an agent takes none of one broker for another's."""

    def __post_init__(self) -> None:
        self.reqs = count(int.from_bytes(self.epoch[:4], "big") << 20)

    def base_of(self, name: str) -> str:
        """The model that computes what is asked for by this name."""
        offered = self.adapters.get(name)
        return offered.adapter.base if offered else name

    def adapters_of(self, base: str) -> list[Adapter]:
        """Those offered with this model, for its workers' cards."""
        return [one.adapter for one in self.adapters.values() if one.adapter.base == base]

    def send(self, peer: bytes, message: Message) -> None:
        if peer:
            self.out.append((peer, message))

    def is_here(self, inc: bytes) -> bool:
        """As any role."""
        return inc in self.fronts or inc in self.workers or inc in self.agents

    def refuse(self, peer: bytes, words: str, reason: str) -> None:
        """It may not say what it said."""
        self.num_refused[reason] += 1
        self.send(peer, Refused(words))

    def note_lost(self, name: str) -> None:
        """A worker has died without having been asked to; names that workers make up must not become too many."""
        self.num_lost[name if name in self.num_lost or len(self.num_lost) < MAX_MODELS else OTHERS] += 1

    def tell_fronts(self, message: Message) -> None:
        for front in self.fronts.values():
            self.send(front.peer, message)

    def own(self, agent: Agent, inc: bytes) -> bool:
        """This worker is the agent's, unless it is another's."""
        if self.owners.setdefault(inc, agent) is not agent:
            return False
        agent.workers.add(inc)
        return True

    def disown(self, agent: Agent, inc: bytes) -> None:
        """The agent has this worker no more, if it had."""
        if self.owners.get(inc) is agent:
            del self.owners[inc]
            agent.workers.discard(inc)

    def abort(self, worker: Worker, key: WorkerJob) -> None:
        """Have the worker drop an attempt; its credit comes back with Done or with a beat that lacks it."""
        worker.placements[key].job = None
        self.send(worker.peer, Abort(*key))

    def job_of(self, key: WorkerJob) -> Job | None:
        front = self.fronts.get(key.front)
        return front.jobs.get(key.job) if front else None


def changed_words(name: str) -> str:
    """Why a job that is meant for what a model or an adapter was before cannot run."""
    return f"{name} has changed meanwhile: send the request again"
