"""A pool whose jobs are moved by hand, for what real workers cannot be made to do on time: fail late, stay silent."""

import asyncio
from collections.abc import Callable
from typing import Any

from models import CARD, demo_tokenizer

from tokenyard.broker.codec import decode, encode, pack_ids
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Answer, Card, Finish, Message, Submit, Want
from tokenyard.http.adapters import AdapterCards
from tokenyard.http.cork import Cork
from tokenyard.http.figures import Figures
from tokenyard.http.loads import Loads
from tokenyard.http.options import LOAD_TIMEOUT_S
from tokenyard.http.pool import JobRequest, JobSink

END = CARD.eos_token_ids[0]


class Job:
    """One submitted job and how to move it."""

    def __init__(self, request: JobRequest, sink: JobSink) -> None:
        self.request = request
        self.sink = sink
        self.cancelled = False
        self.paused = False

    def run(self) -> None:
        self.sink.delta([], {"cached_tokens": 0}, None)

    def say(self, text: str, **extra: Any) -> None:
        """All tokens of the text, in one delta."""
        self.sink.delta(demo_tokenizer().backend.encode(text, add_special_tokens=False).ids, extra, None)

    def end(self, reason: str = "stop") -> None:
        self.sink.delta([END] if reason == "stop" else [], {}, Finish(reason))

    def fail(self, code: str, retry_ms: int = 0) -> None:
        self.sink.failed(TokenyardError(code, "scripted words", retry_ms=retry_ms))


class ScriptedPool:
    """Stands where tokenyard.http.pool.Pool does."""

    def __init__(self, *cards: Card) -> None:
        self._cards = list(cards)
        self.jobs: list[Job] = []
        self.unloaded: list[str] = []
        self.evicted: set[str] = set()
        """Ids of models that were up."""
        self.wanted: list[str] = []
        """Those that were brought back."""
        self.play: Callable[[Job], None] | None = None
        """Called with each job right after its submission."""
        self.on_card: Callable[[Card], None] | None = None
        self.connected = True
        self.figures = Figures()
        self.cork = Cork()
        self.body: dict[str, Any] | None = None
        """What the broker says when it is asked."""
        self.asked: list[Message] = []
        """What it was asked else."""
        self.adapters = AdapterCards()
        for card in cards:
            self.adapters.update(card)

    @property
    def ready(self) -> bool:
        return bool(self._cards)

    @property
    def num_workers(self) -> int:
        return len(self._cards)

    async def start(self) -> None:
        for card in self._cards:
            if self.on_card is not None:
                self.on_card(card)

    async def wait_welcomed(self, seconds: float) -> None:
        pass

    async def close(self) -> None:
        pass

    async def status(self, seconds: float) -> dict[str, Any] | None:
        return self.body

    async def ask(self, question: Callable[[int], Message], seconds: float) -> Answer | None:
        """The broker always does what it is asked."""
        self.asked.append(question(1))
        return Answer(1, "")

    @property
    def loads(self) -> Loads:
        return Loads(LOAD_TIMEOUT_S, self.figures, lambda message: None)

    async def want(self, want: Want) -> Card:
        """An evicted model comes back; nothing else is loaded."""
        if want.model not in self.evicted:
            raise TokenyardError("pool_unavailable", f"nothing is loaded here, nor is {want.model}")
        self.evicted.remove(want.model)
        self.wanted.append(want.model)
        return next(card for card in self._cards if card.names[0] == want.model)

    async def unload(self, model: str) -> None:
        self.unloaded.append(model)

    def is_up(self, model: str) -> bool:
        return model not in self.evicted and any(model == card.names[0] for card in self._cards)

    def cards(self) -> list[Card]:
        return self._cards

    def adapter_cards(self) -> list[Card]:
        return self.adapters.all()

    def find(self, name: str) -> Card | None:
        return next((card for card in self._cards if name in card.names), None) or self.adapters.find(name)

    def submit(self, request: JobRequest, sink: JobSink) -> int:
        wire = Submit(0, 1, request.model, request.kind, pack_ids(request.prompt_ids), b"", request.params)
        assert decode(encode(wire)) == wire, "the broker would refuse it"
        job = Job(request, sink)
        self.jobs.append(job)
        if self.play is not None:
            asyncio.get_running_loop().call_soon(self.play, job)
        return len(self.jobs) - 1

    def cancel(self, job: int) -> None:
        self.jobs[job].cancelled = True

    def pause(self, job: int, *, on: bool) -> None:
        self.jobs[job].paused = on
