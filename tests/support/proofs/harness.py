"""How a field's fate is proved: the same request with and without it, on the application over a scripted pool.

Honoured: something in what came of the request is as the proof says, and otherwise without the field. Harmless: all
that came of it is the same. Refused: a 400 whose words begin with the field, and no job; null and the neutral values
change nothing.
"""

import asyncio
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
from examples import plays
from front import OPTIONS, request
from models import CARD, demo_tokenizer
from scripted import Job, ScriptedPool
from starlette.types import ASGIApp
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tokenyard.broker.wire import Card
from tokenyard.http.app import create_app
from tokenyard.http.catalog.adapters import AdapterPolicy
from tokenyard.http.fields import Field
from tokenyard.http.pool import Pool

HELLO = "Hello there, friend!"
"""What the model says, unless a proof needs something else."""


MARKED = "marked"
"""A model whose tokenizer puts a special token before every text, as the demo's does not."""


class Like(NamedTuple):
    """A text in which this is found."""

    pattern: str


class Unlike(NamedTuple):
    """A text in which this is not found."""

    pattern: str


class Some(NamedTuple):
    """Anything but nothing."""


class Made(NamedTuple):
    """In place of a value: the id of what this request makes."""

    path: str
    body: dict[str, Any]


class Proof(NamedTuple):
    """What is sent in the field, and what must come of it."""

    value: Any
    at: str = ""
    """Where to look, as a dotted path below `jobs` (what the workers are asked), `asked` (what the broker is), `answer`
    or `type`; `#` is a length. Empty for fields that are not honoured."""
    becomes: Any = None
    beside: dict[str, Any] = {}
    """Fields that both requests have."""
    says: str = HELLO


@dataclass(frozen=True)
class Endpoint:
    """An endpoint's table, and a proof for each of its fields."""

    title: str
    path: str
    table: dict[str, Field]
    base: dict[str, Any]
    """The request that fields are added to."""
    proofs: dict[str, Proof]
    inside: str = ""
    """The field below which all of the table is."""

    def body(self, *some: dict[str, Any]) -> dict[str, Any]:
        """The base with more fields."""
        fields = {name: value for one in some for name, value in one.items()}
        return {**self.base, self.inside: fields} if self.inside else {**self.base, **fields}


def fate(field: Field) -> str:
    return "honoured" if field.honoured is not None else "refused" if field.refused is not None else "harmless"


class Fronts:
    """The application over a scripted pool, once for each model, kept for many requests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._fronts: dict[str, tuple[ScriptedPool, ASGIApp]] = {}

    def outcome(self, endpoint: Endpoint, body: dict[str, Any], says: str) -> dict[str, Any]:
        """All that comes of a request."""
        model = MARKED if body.get("model") == MARKED else CARD.names[0]
        if model not in self._fronts:
            self._fronts[model] = self._loop.run_until_complete(
                self._open(_marked(self._folder) if model == MARKED else CARD)
            )
        pool, app = self._fronts[model]
        pool.jobs.clear()
        pool.asked.clear()
        pool.play = plays(says)
        response = self._loop.run_until_complete(request(app, "POST", endpoint.path, json=body))
        return {
            "status": response.status_code,
            "type": response.headers["content-type"],
            "answer": _read(response),
            "jobs": [_job(job) for job in pool.jobs],
            "asked": [_plain(message) for message in pool.asked],
        }

    def make(self, made: Made) -> str:
        """The id of what is made."""
        pool, app = self._front(CARD.names[0])
        pool.play = plays(HELLO)
        response = self._loop.run_until_complete(request(app, "POST", made.path, json=made.body))
        own_id: str = response.json()["id"]
        return own_id

    def _front(self, model: str) -> tuple[ScriptedPool, ASGIApp]:
        if model not in self._fronts:
            card = _marked(self._folder) if model == MARKED else CARD
            self._fronts[model] = self._loop.run_until_complete(self._open(card))
        return self._fronts[model]

    async def _open(self, card: Card) -> tuple[ScriptedPool, ASGIApp]:
        pool = ScriptedPool(card)
        store = str(self._folder / f"{card.names[0]}.db")
        options = replace(OPTIONS, store=store, drain_s=0.05, loras=AdapterPolicy(allow=("*",)))
        app = create_app(cast(Pool, pool), options)
        inner: Any = app
        while not hasattr(inner, "router"):
            inner = getattr(inner, "app", None) or inner._app
        await self._stack.enter_async_context(inner.router.lifespan_context(inner))
        return pool, app

    def close(self) -> None:
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()


def _marked(folder: Path) -> Card:
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(CARD.source)
    begin = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        f"{begin} $A", None, [(begin, tokenizer.convert_tokens_to_ids(begin))]
    )
    tokenizer.save_pretrained(folder / MARKED)
    return CARD._replace(names=[MARKED], source=str(folder / MARKED))


def _read(response: httpx.Response) -> Any:
    if "event-stream" not in response.headers["content-type"]:
        return response.json() if "json" in response.headers["content-type"] else response.text
    data = re.findall(r"^data: ({.*})$", response.text, re.MULTILINE)
    return [httpx.Response(200, text=one).json() for one in data]


def _job(job: Job) -> dict[str, Any]:
    asked = job.request
    return {
        "prompt": demo_tokenizer().backend.decode(asked.prompt_ids, skip_special_tokens=False),
        "prompt_ids": asked.prompt_ids,
        "kind": asked.kind,
        "priority": asked.priority,
        "params": _plain(asked.params),
    }


def _plain(value: Any) -> Any:
    """Named tuples as objects."""
    if hasattr(value, "_asdict"):
        return {name: _plain(one) for name, one in value._asdict().items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def found(came: Any, at: str) -> Any:
    """What is at a dotted path; None where there is nothing."""
    for name in at.split("."):
        if name == "#":
            came = None if came is None else len(came)
        elif isinstance(came, list):
            index = int(name)
            came = came[index] if -len(came) <= index < len(came) else None
        else:
            came = came.get(name) if isinstance(came, dict) else None
    return came


def holds(value: Any, becomes: Any) -> bool:
    match becomes:
        case Like(pattern):
            return isinstance(value, str) and re.search(pattern, value) is not None
        case Unlike(pattern):
            return isinstance(value, str) and re.search(pattern, value) is None
        case Some():
            return value is not None
    return bool(value == becomes)


def settled(came: Any) -> Any:
    """What came of a request without what is drawn anew each time."""
    if isinstance(came, dict):
        drawn = {"id", "item_id", "created", "created_at", "completed_at", "seed", "stamp"}
        return {name: settled(one) for name, one in came.items() if name not in drawn}
    return [settled(one) for one in came] if isinstance(came, list) else came


def check(fronts: Fronts, endpoint: Endpoint, name: str, proof: Proof) -> None:
    """Fails where the field does not do what its table says."""
    field = endpoint.table[name]

    def came_of(*some: dict[str, Any]) -> dict[str, Any]:
        return fronts.outcome(endpoint, endpoint.body(proof.beside, *some), proof.says)

    value = fronts.make(proof.value) if isinstance(proof.value, Made) else proof.value
    given, without = came_of({name: value}), came_of()
    if fate(field) == "honoured":
        assert proof.at
        assert holds(found(given, proof.at), proof.becomes), f"{name}: {found(given, proof.at)!r} at {proof.at}"
        assert not holds(found(without, proof.at), proof.becomes), f"{name}: the same without it"
        return
    assert without["status"] == 200, without["answer"]
    for neutral in (*field.neutral, None):
        assert settled(came_of({name: neutral})) == settled(without)
    if fate(field) == "harmless":
        assert settled(given) == settled(without)
        return
    error = given["answer"]["error"]
    words = error["message"] if isinstance(error, dict) else error
    assert (given["status"], given["jobs"]) == (400, [])
    assert words.startswith(f"{endpoint.inside}.{name} " if endpoint.inside else f"{name} "), words
