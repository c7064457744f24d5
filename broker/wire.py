"""The messages of the wire, grouped by direction; docs/protocol.md is the authority and changes in the same commit.

Each is a NamedTuple and travels as a msgpack array `[tag, *fields]` (codec.py). Fields are only ever added at the end,
with a default: unknown trailing fields are ignored, missing ones take their defaults. No sockets here.

structures.py has what stands inside messages, token_plane.py the messages between workers and fronts, and *_messages.py
those about adapters, models on demand, and retiring workers; import all from here.
"""

from typing import Annotated, Any, NamedTuple

from tokenyard.broker.adapter_messages import AdapterFailed as AdapterFailed
from tokenyard.broker.adapter_messages import AddAdapter as AddAdapter
from tokenyard.broker.adapter_messages import LoadAdapter as LoadAdapter
from tokenyard.broker.adapter_messages import RemoveAdapter as RemoveAdapter
from tokenyard.broker.adapter_messages import UnloadAdapter as UnloadAdapter
from tokenyard.broker.death_messages import Dying as Dying
from tokenyard.broker.death_messages import Exited as Exited
from tokenyard.broker.load_messages import Dismiss as Dismiss
from tokenyard.broker.load_messages import LoadFailed as LoadFailed
from tokenyard.broker.load_messages import Loading as Loading
from tokenyard.broker.load_messages import UnloadModel as UnloadModel
from tokenyard.broker.load_messages import Want as Want
from tokenyard.broker.params import Params
from tokenyard.broker.ranges import INC_BYTES as INC_BYTES
from tokenyard.broker.ranges import (
    MAX_PREFIX_KEYS,
    Capacity,
    Inc,
    Length,
    Milliseconds,
    Natural,
    PackedIds,
    PrefixKey,
    Secret,
)
from tokenyard.broker.retire_messages import SUCCESSORS as SUCCESSORS
from tokenyard.broker.retire_messages import DrainWorker as DrainWorker
from tokenyard.broker.retire_messages import Retire as Retire
from tokenyard.broker.retire_messages import Retired as Retired
from tokenyard.broker.structures import PLAIN as PLAIN
from tokenyard.broker.structures import Adapter as Adapter
from tokenyard.broker.structures import AdapterKey as AdapterKey
from tokenyard.broker.structures import Card as Card
from tokenyard.broker.structures import Delta as Delta
from tokenyard.broker.structures import Finish as Finish
from tokenyard.broker.structures import FrontJob as FrontJob
from tokenyard.broker.structures import Post as Post
from tokenyard.broker.structures import WorkerInfo as WorkerInfo
from tokenyard.broker.structures import WorkerJob as WorkerJob
from tokenyard.broker.token_plane import Ack as Ack
from tokenyard.broker.token_plane import Idle as Idle
from tokenyard.broker.token_plane import LinkUp as LinkUp
from tokenyard.broker.token_plane import Pause as Pause
from tokenyard.broker.token_plane import Resume as Resume
from tokenyard.broker.token_plane import Stop as Stop
from tokenyard.broker.token_plane import Tokens as Tokens

PROTOCOL = 2
"""Travels in Hello; a mismatch is refused with words."""


# → broker


class FrontHello(NamedTuple):
    """A front's whole state. `jobs` are those it believes accepted and unfinished."""

    protocol: Natural
    inc: Inc
    pid: Natural
    jobs: list[FrontJob]
    secret: Secret = b""
    """In each hello: of the incarnation."""


class WorkerHello(NamedTuple):
    """A worker's whole state; sent again at each change of `state` (loading, ready, draining)."""

    protocol: Natural
    inc: Inc
    pid: Natural
    state: str
    endpoint: str
    capacity: Capacity
    """Sequences it takes at once."""
    card: Card | None
    """None while the model is loading."""
    jobs: list[WorkerJob]
    name: str = ""
    """For people: what it was asked to load, and where."""
    key: str = ""
    """CURVE public key in Z85 that the endpoint answers with; empty: it speaks plainly (ipc, tcp on loopback)."""
    secret: Secret = b""


class AgentHello(NamedTuple):
    """The supervisor of one box: the only process that spawns and reaps there."""

    protocol: Natural
    inc: Inc
    pid: Natural
    devices: list[str]
    workers: list[Inc]
    restarts: list[Natural] = []
    """Incarnations of its living workers; of each, how many lives its place had before."""
    posts: list[Post] = []
    """All places of workers, living or not."""
    slots: list[Natural] = []
    """Of each device: how many posts it may have."""
    memory_bytes: list[Natural] = []
    """Of each device: what all its workers together may take; 0: unknown."""
    troubles: list[str] = []
    """For people, a line each: which of its processes died, why, and when they start again."""
    secret: Secret = b""
    proofs: list[Secret] = []
    """Of each of `workers`: its secret, which its agent gave it."""


class Beat(NamedTuple):
    """A worker's sign of life; it carries the truth about its jobs, so that a lost Start, Done or Abort heals."""

    inc: Inc
    state: str
    step: Natural
    """Engine steps so far: progress, where the I/O thread alone would only show life (progress.py)."""
    patience_ms: Milliseconds
    """How long this worker may stay silent; 0: SILENCE_S."""
    jobs: list[WorkerJob]
    load: dict[str, int] = {}
    """For people and metrics; docs/protocol.md has the keys."""
    step_ms: Natural = 0
    """How long the step at hand may last in all before the engine must be taken for hung; 0: it is in none."""


class Ping(NamedTuple):
    """A front's or agent's sign of life."""

    inc: Inc


class Submit(NamedTuple):
    """Repeated every SUBMIT_REPEAT_S until Accepted, Placed or Reject; attempt > 1 resumes after `emitted_ids`."""

    job: Natural
    attempt: Natural
    model: str
    """A card's id, or the name of an adapter."""
    kind: str
    """generate, score or embed; the last two have no emitted_ids."""
    prompt_ids: PackedIds
    emitted_ids: PackedIds
    params: Params
    priority: int = 0
    """Lower goes first, as in vLLM."""
    deadline_ms: Natural = 0
    """Longest wait in the queue; 0: none."""
    prefix_keys: Annotated[list[PrefixKey], Length(0, MAX_PREFIX_KEYS)] = []
    crashes: Natural = 0
    """Attempts of this job that ended with a crash of the worker's own."""
    version: str = ""
    """Of the adapter, where `emitted_ids` were drawn with one: only that may go on."""


class Cancel(NamedTuple):
    job: Natural


FRONT_GONE = "front gone"
"""A Done's reason where the worker has not heard of the front for UNSUBSCRIBED_S: what it had for it is lost."""


class Done(NamedTuple):
    """The job has left this worker: its credit is free."""

    front: Inc
    job: Natural
    attempt: Natural
    reason: str


class Spawned(NamedTuple):
    req: Natural
    inc: Inc


class Goodbye(NamedTuple):
    """A peer leaves: forget it at once. `crash`: from a worker that fails by itself, why; empty: on purpose."""

    inc: Inc
    crash: str = ""


class Status(NamedTuple):
    """From the command line, or from a front that is asked for its metrics: what is there?"""

    req: Natural
    workers: list[Inc] | None = None
    """Only these; None: all."""


class KillWorker(NamedTuple):
    """From the command line: end this worker now; its streams go on elsewhere."""

    req: Natural
    inc: Inc


# broker → front


class Welcome(NamedTuple):
    epoch: Inc
    """The broker's incarnation."""
    workers: list[WorkerInfo]
    more: bool = False
    """Another one follows, with more of them: a large pool does not fit in one frame."""


class WorkerUp(NamedTuple):
    worker: WorkerInfo


class WorkerDown(NamedTuple):
    inc: Inc


class Accepted(NamedTuple):
    job: Natural
    attempt: Natural


class Placed(NamedTuple):
    job: Natural
    attempt: Natural
    worker: Inc


class Reject(NamedTuple):
    job: Natural
    attempt: Natural
    code: str
    words: str
    retry_ms: Natural


class Lost(NamedTuple):
    """The attempt's worker is gone: drain what it sent, then submit attempt + 1."""

    job: Natural
    attempt: Natural
    crashes: Natural
    """Counted attempts so far, for the next Submit."""


class Who(NamedTuple):
    """I do not know you: hello again."""

    epoch: Inc


class Refused(NamedTuple):
    """This peer cannot take part (protocol mismatch, wrong role): the words say why."""

    words: str


# broker → worker


class Start(NamedTuple):
    front: Inc
    job: Natural
    attempt: Natural
    kind: str
    prompt_ids: PackedIds
    emitted_ids: PackedIds
    params: Params
    adapter: str = ""
    version: str = ""
    """Of the adapter."""


class Abort(NamedTuple):
    front: Inc
    job: Natural
    attempt: Natural
    """Attempts up to this one."""


class Drain(NamedTuple):
    """Finish what runs, take no more, then end."""


class Allowed(NamedTuple):
    """Whom a worker whose tokens go over CURVE may let in: all of this list and nobody else."""

    keys: list[str]
    """CURVE public keys in Z85."""


# broker → agent, broker → command line (Answer)


class Spawn(NamedTuple):
    req: Natural
    model: str
    """MODEL_SPEC, or a name that the agent's configuration knows."""
    device: str
    on_demand: bool = False
    """Asked for by the broker itself: Post.named is the opposite."""


class Kill(NamedTuple):
    """End this worker now. `words`: why its death counts as a crash; empty where somebody asked for it."""

    inc: Inc
    words: str = ""


class Answer(NamedTuple):
    """To all that have a `req`; `error` is empty where it went well."""

    req: Natural
    error: str
    body: dict[str, Any] = {}
    more: bool = False
    """Another part follows (answers.py)."""


FrontToBroker = FrontHello | Ping | Submit | Cancel | Status | Want | UnloadModel | AddAdapter | RemoveAdapter | Goodbye
WorkerToBroker = WorkerHello | Beat | Done | AdapterFailed | Goodbye
AgentToBroker = AgentHello | Ping | Spawned | Dying | Exited | Retired | Goodbye
ControlToBroker = Status | DrainWorker | KillWorker
BrokerToFront = (
    Welcome | WorkerUp | WorkerDown | Accepted | Placed | Reject | Lost | Loading | LoadFailed | Answer | Who | Refused
)
BrokerToWorker = Start | Abort | Drain | Allowed | LoadAdapter | UnloadAdapter | Who | Refused
BrokerToAgent = Spawn | Kill | Dismiss | Retire | Who | Refused
BrokerToControl = Answer | Refused
TokensDown = LinkUp | Tokens | Idle
TokensUp = Resume | Ack | Stop | Pause
ToBroker = FrontToBroker | WorkerToBroker | AgentToBroker | ControlToBroker
FromBroker = BrokerToFront | BrokerToWorker | BrokerToAgent | BrokerToControl
Message = ToBroker | FromBroker | TokensDown | TokensUp

# First byte of an upstream frame must be >= 2 (0 and 1 are XSUB's own); a msgpack array starts at 0x90.
TAGS: dict[int, type[Any]] = {
    1: FrontHello, 2: WorkerHello, 3: AgentHello, 4: Beat, 5: Ping, 6: Submit, 7: Cancel, 8: Done, 9: Spawned,
    10: Exited, 11: Goodbye, 12: Status, 13: DrainWorker, 15: KillWorker,
    16: Want, 17: UnloadModel, 18: AdapterFailed, 19: AddAdapter, 20: RemoveAdapter, 21: Retired, 22: Dying,
    32: Welcome, 33: WorkerUp, 34: WorkerDown, 35: Accepted, 36: Placed, 37: Reject, 38: Lost, 39: Who, 40: Refused,
    41: Loading, 42: LoadFailed,
    64: Start, 65: Abort, 66: Drain, 67: Allowed, 68: LoadAdapter, 69: UnloadAdapter,
    80: Spawn, 81: Kill, 82: Answer, 83: Dismiss, 84: Retire,
    96: LinkUp, 97: Tokens, 98: Idle, 112: Resume, 113: Ack, 114: Stop,
    115: Pause,
}  # fmt: skip
TAG_OF = {message: tag for tag, message in TAGS.items()}
