"""Known traffic for the fault tests: 32 streams at a time, each held token by token against an undisturbed run.

Prompts go out as ids and answers come back with theirs, so what is lost, repeated or wrong is counted in tokens.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from models import DEMO, demo_tokenizer
from reference import MARGIN, Reference, plain_scores

from tokenyard.broker.params import Params

NUM_STREAMS = 32
"""At a time, as the issue asks."""
NUM_ASKS = 40
"""Different requests; longer traffic asks them again."""
STUCK_S = 60.0
"""A stream without an event for so long is unanswered: above any wait for a worker that loads on two busy cores."""
SHIFT = 8
"""So many equal tokens behind a gap tell that some were lost or repeated, not wrong."""


class Ask(NamedTuple):
    """One request, and all that its answer depends on."""

    prompt: tuple[int, ...]
    count: int
    temperature: float
    seed: int
    model: str = "tokenyard-demo"

    def body(self) -> dict[str, Any]:
        """For POST /v1/completions."""
        return {
            "model": self.model,
            "prompt": list(self.prompt),
            "max_tokens": self.count,
            "temperature": self.temperature,
            "seed": self.seed,
            "top_p": 1,
            "top_k": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": True,
        }


def asks(count: int = NUM_ASKS, model: str = "tokenyard-demo") -> list[Ask]:
    """Prompts of 9 to 400 tokens, answers of 16 to 156; half greedy, half sampled with a seed."""
    backend = demo_tokenizer().backend
    made = []
    for index in range(count):
        text = f"Count from {index + 1} to {60 + index}. " * (1, 4, 16, 40)[index % 4]
        prompt = tuple(backend.encode(text, add_special_tokens=False).ids)
        temperature = 0.8 if index % 2 else 0.0
        made.append(Ask(prompt, 16 + index * 53 % 145, temperature, index, model))
    return made


@dataclass(slots=True)
class Outcome:
    """What came back for one ask."""

    ask: Ask
    tokens: list[int] = field(default_factory=list)
    num_ends: int = 0
    """Finish reasons and errors: one is right."""
    error: str = ""
    """Why there was no whole answer."""
    first_s: float = 0.0
    """From the request to the stream's first event."""
    stall_s: float = 0.0
    """The longest time between two events of the stream, once it had begun."""


@dataclass(slots=True)
class Counts:
    """A run's result, as docs/reliability.md shows it."""

    requests: int = 0
    tokens: int = 0
    lost: int = 0
    repeated: int = 0
    wrong: int = 0
    failed: int = 0
    """Answered with an error."""
    unanswered: int = 0
    answered_twice: int = 0
    near_ties: int = 0
    """Streams that part from the undisturbed run where the reference's margin is below 1e-3, and keep to it after."""
    first_s: float = 0.0
    """The longest wait for a first token."""
    stall_s: float = 0.0
    """The longest time that a stream stood still once it had begun."""
    errors: set[str] = field(default_factory=set)
    """What was said of those that failed."""

    def check(self, longest_stall_s: float) -> None:
        """Nothing was lost and nothing is wrong, and no stream stood still for longer than that."""
        harm = (self.lost, self.repeated, self.wrong, self.failed, self.unanswered, self.answered_twice)
        assert harm == (0,) * len(harm), self
        assert self.near_ties <= max(2, self.tokens // 5_000), self
        assert self.stall_s <= longest_stall_s, self

    def row(self) -> dict[str, str]:
        """What a table shows, by column."""
        figures = asdict(self)
        del figures["errors"]
        waits = {"first token, s": figures.pop("first_s"), "stall, s": figures.pop("stall_s")}
        counted = {name.replace("_", " "): f"{value:,}" for name, value in figures.items()}
        return counted | {name: f"{seconds:.2f}" for name, seconds in waits.items()}


async def stream_ask(client: httpx.AsyncClient, ask: Ask, on_token: Callable[[], None] = lambda: None) -> Outcome:
    """One answer, whatever becomes of it; reads on to the body's end, so that a second answer would be seen."""
    outcome = Outcome(ask)
    began = time.monotonic()
    last = None
    done = False
    try:
        async with client.stream("POST", "/v1/completions", json=ask.body()) as response:
            if response.status_code != 200:
                outcome.error = f"{response.status_code}: {(await response.aread()).decode()}"
                outcome.num_ends = 1
                return outcome
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                now = time.monotonic()
                if last is None:
                    outcome.first_s = now - began
                else:
                    outcome.stall_s = max(outcome.stall_s, now - last)
                last = now
                if line == "data: [DONE]":
                    done = True
                else:
                    _take(outcome, json.loads(line.removeprefix("data: ")))
                    on_token()
    except httpx.HTTPError as error:
        outcome.error = outcome.error or f"{type(error).__name__}: {error}"
    if not done:
        outcome.error = outcome.error or "the stream ended without [DONE]"
    return outcome


def _take(outcome: Outcome, event: dict[str, Any]) -> None:
    if "error" in event:
        outcome.error = json.dumps(event["error"])
        outcome.num_ends += 1
    for choice in event.get("choices", ()):
        outcome.tokens += choice["token_ids"]
        outcome.num_ends += choice["finish_reason"] is not None


class Traffic:
    """Streams over one server while something happens to it."""

    def __init__(self, url: str, asks: Sequence[Ask]) -> None:
        self._url = url
        self._asks = asks
        self._flowing = asyncio.Event()
        self._tokens_wanted = 4 * NUM_STREAMS
        """Before the disturbance begins."""
        self._num_begun = 0

    async def run(self, num_requests: int, disturb: Callable[[], Awaitable[object]] | None = None) -> list[Outcome]:
        """So many requests, and more until `disturb` is done, which begins once all streams flow."""
        outcomes: list[Outcome] = []
        disturbing = asyncio.create_task(self._disturb(disturb)) if disturb else None
        limits = httpx.Limits(max_connections=NUM_STREAMS)
        async with httpx.AsyncClient(base_url=self._url, timeout=STUCK_S, limits=limits) as client:

            async def lane() -> None:
                while self._num_begun < num_requests or (disturbing is not None and not disturbing.done()):
                    ask = self._asks[self._num_begun % len(self._asks)]
                    self._num_begun += 1
                    outcomes.append(await stream_ask(client, ask, self._saw_token))

            await asyncio.gather(*(lane() for _ in range(NUM_STREAMS)))
        if disturbing:
            await disturbing
        return outcomes

    async def _disturb(self, disturb: Callable[[], Awaitable[object]]) -> None:
        await self._flowing.wait()
        await disturb()

    def _saw_token(self) -> None:
        self._tokens_wanted -= 1
        if self._tokens_wanted <= 0:
            self._flowing.set()


class Judge:
    """Knows the right answer of each ask from an undisturbed run, and what may differ from it."""

    def __init__(self, undisturbed: list[Outcome]) -> None:
        self.right = {outcome.ask: outcome.tokens for outcome in undisturbed}
        self.undisturbed = Counts()
        """Its waits are what this machine adds by itself: the first token's is that of prompts of which each worker
        takes half of all streams' at once, as when one of two dies."""
        for outcome in undisturbed:
            assert not outcome.error, outcome
            self._count(self.undisturbed, outcome)

    def count(self, outcomes: list[Outcome]) -> Counts:
        counts = Counts()
        for outcome in outcomes:
            self._count(counts, outcome)
        return counts

    def _count(self, counts: Counts, outcome: Outcome) -> None:
        counts.requests += 1
        counts.tokens += len(outcome.tokens)
        counts.answered_twice += outcome.num_ends > 1
        counts.unanswered += outcome.num_ends == 0
        if outcome.error:
            counts.failed += 1
            counts.errors.add(outcome.error)
        counts.first_s = max(counts.first_s, outcome.first_s)
        counts.stall_s = max(counts.stall_s, outcome.stall_s)
        if not outcome.error:
            self._compare(counts, outcome)

    def _compare(self, counts: Counts, outcome: Outcome) -> None:
        found, right = outcome.tokens, self.right[outcome.ask]
        if found == right:
            return
        if len(found) == outcome.ask.count and is_reference(outcome.ask, tuple(found)):
            counts.near_ties += 1
            return
        lost, repeated = shifts(found, right)
        counts.lost += lost
        counts.repeated += repeated
        counts.wrong += not (lost or repeated)


def shifts(found: list[int], right: list[int]) -> tuple[int, int]:
    """How many tokens are lost, and how many repeated, at the first difference; neither: a token is wrong there."""
    place = next((i for i, pair in enumerate(zip(found, right, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return max(0, len(right) - len(found)), max(0, len(found) - len(right))
    behind = found[place : place + SHIFT]
    for count in range(1, len(right) - place):
        if right[place + count : place + count + len(behind)] == behind:
            return count, 0
    ahead = right[place : place + SHIFT]
    for count in range(1, len(found) - place):
        if found[place + count : place + count + len(ahead)] == ahead:
            return 0, count
    return 0, 0


@cache
def is_reference(ask: Ask, tokens: tuple[int, ...]) -> bool:
    """Whether transformers itself would emit these tokens, but for near-ties (docs/architecture.md, "equal")."""
    params = Params(max_tokens=ask.count, temperature=ask.temperature, seed=ask.seed)
    prompt, emitted = list(ask.prompt), list(tokens)
    for index, raw in enumerate(_reference().logits(prompt, emitted)):
        scores = plain_scores(raw, prompt + emitted[:index], len(prompt), params)
        if (scores.max() - scores[emitted[index]]).item() >= MARGIN:
            return False
    return True


@cache
def _reference() -> Reference:
    return Reference(Path(DEMO))
