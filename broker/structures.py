"""What stands inside messages: arrays without a tag. Import them from wire.py, their one door."""

from typing import Annotated, Any, NamedTuple

from tokenyard.broker.ranges import (
    MAX_NAMES,
    Inc,
    Keys,
    Length,
    Logit,
    MaybeInc,
    Natural,
    Parts,
    Positive,
    Range,
    TokenId,
)


class AdapterKey(NamedTuple):
    """What a job is computed with: an adapter's name and version; both are empty for the model as it is."""

    name: str = ""
    version: str = ""

    @property
    def text(self) -> str:
        """For the root of prefix keys: versions hold no @."""
        return f"{self.name}@{self.version}" if self != PLAIN else ""


PLAIN = AdapterKey()


class Adapter(NamedTuple):
    """A LoRA adapter of a model; requests name it where they would name the model."""

    name: str
    base: str
    """The id of the model that it changes."""
    source: str
    """Directory or Hub name, that perhaps with `@` and a revision."""
    stamp: Natural = 0
    """When it was asked for, in Unix nanoseconds: it names the request, and of two of one name the later one counts.
    0: when the broker began."""
    version: str = ""
    """A digest of its files; empty while no worker has read them."""

    @property
    def key(self) -> AdapterKey:
        return AdapterKey(self.name, self.version)


class Card(NamedTuple):
    """What is known of a worker's pinned model; the front loads tokenizer and template from `source` at `commit`."""

    names: Annotated[list[str], Length(1, MAX_NAMES)]
    """What requests may call it; the first is its id."""
    source: str
    """Directory or Hub name."""
    commit: str
    """Of the Hub, or a digest of a directory's files, or of its GGUF file."""
    context_length: Positive
    pool_tokens: Natural
    """KV slots of one worker: a prompt that is longer can never run."""
    block_size: Positive
    lane: str
    dtype: str
    device: str
    vocab_size: Annotated[int, Range(1, 2**32)]
    eos_token_ids: list[TokenId]
    generation_config: dict[str, Any] = {}
    created: Natural = 0
    """Unix seconds."""
    revision: str = ""
    """Branch, tag or commit as it was asked for, if it was."""
    adapters: list[Adapter] = []
    """From a worker: what it holds. To fronts: what may be asked for."""
    file: str = ""
    """The GGUF file of `source` that has it all; empty for other weights."""


class Finish(NamedTuple):
    """Why a stream ended, as the worker sees it."""

    reason: str
    """stop (by token id), length, error, cancelled."""
    code: str = ""
    words: str = ""
    param: str | None = None


Logprobs = Annotated[list[Any], Parts((Logit, list[TokenId], list[Logit]))]
PromptLogprobs = Annotated[list[Any], Parts((Natural, bytes, bytes, bytes, bytes))]
Extra = Annotated[
    dict[str, Any],
    Keys(
        (
            ("cached_tokens", Natural),
            ("adapter_version", str),
            ("logprobs", list[Logprobs]),
            ("prompt_logprobs", PromptLogprobs),
            ("scores", list[Logit]),
            ("embedding", bytes),
        )
    ),
]


class Delta(NamedTuple):
    """What one step added to one sequence. `first_index` counts emitted tokens over all attempts."""

    job: Natural
    attempt: Natural
    first_index: Natural
    token_ids: list[TokenId]
    extra: Extra = {}
    """What there is beside tokens; docs/protocol.md has the keys."""
    finish: Finish | None = None


class WorkerJob(NamedTuple):
    """A job as its worker claims it."""

    front: Inc
    job: Natural
    attempt: Natural


class FrontJob(NamedTuple):
    """A job as its front claims it."""

    job: Natural
    attempt: Natural


class WorkerInfo(NamedTuple):
    """A worker as fronts see it."""

    inc: Inc
    endpoint: str
    card: Card
    key: str = ""
    """As in WorkerHello."""


class Post(NamedTuple):
    """A place for one worker that an agent keeps alive, over all its lives."""

    number: Natural
    """Unique within the agent's life."""
    model: str
    """The id that its worker's card will have."""
    spec: str
    """MODEL_SPEC."""
    device: str
    """As in AgentHello.devices."""
    inc: MaybeInc
    """Of its living worker; empty between two lives."""
    pinned: bool = False
    """It never makes room for another model."""
    named: bool = False
    """Part of the agent's own plan, not spawned on demand: it is not unloaded for idleness."""
    leaving: bool = False
    """Dismissed, or to be replaced: no life follows this one."""
    predecessor: MaybeInc = b""
    """The worker whose place its worker takes, or took (Retire)."""
