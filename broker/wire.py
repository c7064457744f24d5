"""The messages of the wire, grouped by direction; docs/protocol.md is the authority and changes in the same commit.

Each is a NamedTuple and travels as a msgpack array `[tag, *fields]` (codec.py). Fields are only ever added at the end,
with a default: unknown trailing fields are ignored, missing ones take their defaults. No sockets here.
"""

from typing import Any, NamedTuple

from tokenyard.broker.params import Params

PROTOCOL = 1
"""Travels in Hello; a mismatch is refused with words."""

INC_BYTES = 8
"""An incarnation: random bytes that name one life of one process."""


class Card(NamedTuple):
    """What is known of a worker's pinned model; the front loads tokenizer and template from `source` at `commit`."""

    names: list[str]
    """What requests may call it; the first is its id."""
    source: str
    """Directory or Hub name."""
    commit: str
    """Of the Hub, or a digest of a directory's files."""
    context_length: int
    pool_tokens: int
    """KV slots of one worker: a prompt that is longer can never run."""
    block_size: int
    lane: str
    dtype: str
    device: str
    vocab_size: int
    eos_token_ids: list[int]
    generation_config: dict[str, Any] = {}
    created: int = 0
    """Unix seconds."""
    revision: str = ""
    """Branch, tag or commit as it was asked for, if it was."""


class Finish(NamedTuple):
    """Why a stream ended, as the worker sees it."""

    reason: str
    """stop (by token id), length, error, cancelled."""
    code: str = ""
    words: str = ""
    param: str | None = None


class Delta(NamedTuple):
    """What one step added to one sequence. `first_index` counts emitted tokens over all attempts."""

    job: int
    attempt: int
    first_index: int
    token_ids: list[int]
    extra: dict[str, Any] = {}
    """What there is beside tokens; docs/protocol.md has the keys."""
    finish: Finish | None = None


class WorkerJob(NamedTuple):
    """A job as its worker claims it."""

    front: bytes
    job: int
    attempt: int


class FrontJob(NamedTuple):
    """A job as its front claims it."""

    job: int
    attempt: int


class WorkerInfo(NamedTuple):
    """A worker as fronts see it."""

    inc: bytes
    endpoint: str
    card: Card


# → broker


class FrontHello(NamedTuple):
    """A front's whole state. `jobs` are those it believes accepted and unfinished."""

    protocol: int
    inc: bytes
    pid: int
    jobs: list[FrontJob]


class WorkerHello(NamedTuple):
    """A worker's whole state; sent again at each change of `state` (loading, ready, draining)."""

    protocol: int
    inc: bytes
    pid: int
    state: str
    endpoint: str
    capacity: int
    """Sequences it takes at once."""
    card: Card | None
    """None while the model is loading."""
    jobs: list[WorkerJob]
    name: str = ""
    """For people: what it was asked to load, and where."""


class AgentHello(NamedTuple):
    """The supervisor of one box: the only process that spawns and reaps there."""

    protocol: int
    inc: bytes
    pid: int
    devices: list[str]
    workers: list[bytes]
    restarts: list[int] = []
    """Incarnations of its living workers; of each, how many lives its place had before."""


class Beat(NamedTuple):
    """A worker's sign of life; it carries the truth about its jobs, so that a lost Start, Done or Abort heals."""

    inc: bytes
    state: str
    step: int
    """Engine steps so far: progress, where the I/O thread alone would only show life."""
    patience_ms: int
    """How long this worker may stay silent; 0: SILENCE_S."""
    jobs: list[WorkerJob]
    load: dict[str, int] = {}
    """For people and metrics; docs/protocol.md has the keys."""


class Ping(NamedTuple):
    """A front's or agent's sign of life."""

    inc: bytes


class Submit(NamedTuple):
    """Repeated every SUBMIT_REPEAT_S until Accepted, Placed or Reject; attempt > 1 resumes after `emitted_ids`."""

    job: int
    attempt: int
    model: str
    """A card's id."""
    kind: str
    """generate, score or embed; the last two have no emitted_ids."""
    prompt_ids: bytes
    emitted_ids: bytes
    params: Params
    priority: int = 0
    """Lower goes first, as in vLLM."""
    deadline_ms: int = 0
    """Longest wait in the queue; 0: none."""
    prefix_keys: list[bytes] = []
    crashes: int = 0
    """Attempts of this job that ended with a crash of the worker's own."""


class Cancel(NamedTuple):
    job: int


class Done(NamedTuple):
    """The job has left this worker: its credit is free."""

    front: bytes
    job: int
    attempt: int
    reason: str


class Spawned(NamedTuple):
    req: int
    inc: bytes


class Exited(NamedTuple):
    """A worker has ended. `cause`: crash (own signal, device error, out of memory), killed (from outside), drained."""

    inc: bytes
    cause: str
    words: str


class Goodbye(NamedTuple):
    """A peer leaves on purpose: forget it at once."""

    inc: bytes


class Status(NamedTuple):
    """From the command line, or from a front that is asked for its metrics: what is there?"""

    req: int


class DrainWorker(NamedTuple):
    """From the command line: let this worker finish its jobs and end."""

    req: int
    inc: bytes


class SpawnWorker(NamedTuple):
    """From the command line: start one more worker, on the agent with the fewest."""

    req: int
    model: str
    device: str


class KillWorker(NamedTuple):
    """From the command line: end this worker now; its streams go on elsewhere."""

    req: int
    inc: bytes


# broker → front


class Welcome(NamedTuple):
    epoch: bytes
    """The broker's incarnation."""
    workers: list[WorkerInfo]


class WorkerUp(NamedTuple):
    worker: WorkerInfo


class WorkerDown(NamedTuple):
    inc: bytes


class Accepted(NamedTuple):
    job: int
    attempt: int


class Placed(NamedTuple):
    job: int
    attempt: int
    worker: bytes


class Reject(NamedTuple):
    job: int
    attempt: int
    code: str
    words: str
    retry_ms: int


class Lost(NamedTuple):
    """The attempt's worker is gone: drain what it sent, then submit attempt + 1."""

    job: int
    attempt: int
    crashes: int
    """Counted attempts so far, for the next Submit."""


class Who(NamedTuple):
    """I do not know you: hello again."""

    epoch: bytes


class Refused(NamedTuple):
    """This peer cannot take part (protocol mismatch, wrong role): the words say why."""

    words: str


# broker → worker


class Start(NamedTuple):
    front: bytes
    job: int
    attempt: int
    kind: str
    prompt_ids: bytes
    emitted_ids: bytes
    params: Params


class Abort(NamedTuple):
    front: bytes
    job: int
    attempt: int
    """Attempts up to this one."""


class Drain(NamedTuple):
    """Finish what runs, take no more, then end."""


# broker → agent, broker → command line (Answer)


class Spawn(NamedTuple):
    req: int
    model: str
    device: str


class Kill(NamedTuple):
    inc: bytes


class Answer(NamedTuple):
    """To Status, DrainWorker, SpawnWorker and KillWorker; `error` is empty where it went well."""

    req: int
    error: str
    body: dict[str, Any] = {}


# token plane: worker → front, front → worker (Resume, Ack, Stop)


class LinkUp(NamedTuple):
    """The subscription was seen; the worker holds batches [oldest, next) for this front."""

    worker: bytes
    oldest: int
    next: int


class Tokens(NamedTuple):
    """All that one step made for this front's sequences. `seq` numbers the batches of this link from 0."""

    seq: int
    deltas: list[Delta]


class Idle(NamedTuple):
    """Nothing more to send for now; `next` is the number that the next batch will have."""

    next: int


class Resume(NamedTuple):
    front: bytes
    worker: bytes
    from_seq: int


class Ack(NamedTuple):
    """All batches below `upto` have arrived."""

    front: bytes
    worker: bytes
    upto: int


class Stop(NamedTuple):
    """This stream needs no more tokens (stop string, client gone)."""

    front: bytes
    worker: bytes
    job: int


FrontToBroker = FrontHello | Ping | Submit | Cancel | Status | Goodbye
WorkerToBroker = WorkerHello | Beat | Done | Goodbye
AgentToBroker = AgentHello | Ping | Spawned | Exited | Goodbye
ControlToBroker = Status | DrainWorker | SpawnWorker | KillWorker
BrokerToFront = Welcome | WorkerUp | WorkerDown | Accepted | Placed | Reject | Lost | Answer | Who | Refused
BrokerToWorker = Start | Abort | Drain | Who | Refused
BrokerToAgent = Spawn | Kill | Who | Refused
BrokerToControl = Answer | Refused
TokensDown = LinkUp | Tokens | Idle
TokensUp = Resume | Ack | Stop
ToBroker = FrontToBroker | WorkerToBroker | AgentToBroker | ControlToBroker
FromBroker = BrokerToFront | BrokerToWorker | BrokerToAgent | BrokerToControl
Message = ToBroker | FromBroker | TokensDown | TokensUp

# First byte of an upstream frame must be >= 2 (0 and 1 are XSUB's own); a msgpack array starts at 0x90.
TAGS: dict[int, type[Any]] = {
    1: FrontHello, 2: WorkerHello, 3: AgentHello, 4: Beat, 5: Ping, 6: Submit, 7: Cancel, 8: Done, 9: Spawned,
    10: Exited, 11: Goodbye, 12: Status, 13: DrainWorker, 14: SpawnWorker, 15: KillWorker,
    32: Welcome, 33: WorkerUp, 34: WorkerDown, 35: Accepted, 36: Placed, 37: Reject, 38: Lost, 39: Who, 40: Refused,
    64: Start, 65: Abort, 66: Drain, 80: Spawn, 81: Kill, 82: Answer,
    96: LinkUp, 97: Tokens, 98: Idle, 112: Resume, 113: Ack, 114: Stop,
}  # fmt: skip
TAG_OF = {message: tag for tag, message in TAGS.items()}
