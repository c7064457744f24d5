"""The Responses API over a scripted pool, asked in memory, several exchanges with one store."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx
from front import OPTIONS, request, says
from models import CARD, demo_tokenizer
from scripted import Job, ScriptedPool

from tokenyard.http.app import create_app
from tokenyard.http.pool import Pool

RESPONSES = "/v1/responses"


class Desk:
    """One front; two over the same file are two fronts of a pool. tests/http/responses/conftest.py closes them."""

    opened: "ClassVar[list[Desk]]" = []

    def __init__(self, store: Path | None, play: Callable[[Job], None] | None = None, drain_s: float = 0.05) -> None:
        self.opened.append(self)
        self.pool = ScriptedPool(CARD)
        self.pool.play = play or says("Hello 🤖!")
        options = replace(OPTIONS, store=str(store) if store else "off", drain_s=drain_s)
        self._app = create_app(cast(Pool, self.pool), options)

    async def ask(self, method: str, path: str = "", **given: Any) -> httpx.Response:
        """One exchange; a path that is not whole is below /v1/responses."""
        return await request(self._app, method, path if path.startswith("/v1/") else RESPONSES + path, **given)

    async def create(self, **fields: Any) -> dict[str, Any]:
        """A response that is made without an error."""
        answer = await self.ask("POST", json={"model": "demo", "input": "hi", **fields})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def stream(self, **fields: Any) -> list[dict[str, Any]]:
        """The events of a response that streams."""
        answer = await self.ask("POST", json={"model": "demo", "input": "hi", "stream": True, **fields})
        assert answer.status_code == 200, answer.text
        return named_events(answer)

    async def refuse(self, **fields: Any) -> dict[str, Any]:
        """The error of a request that is refused."""
        answer = await self.ask("POST", json={"model": "demo", "input": "hi", **fields})
        assert answer.status_code == 400, answer.text
        error: dict[str, Any] = answer.json()["error"]
        return error

    async def hang_up(self, **fields: Any) -> None:
        """A client that goes as soon as the first of its answer's stream is there."""
        there = asyncio.Event()
        body = json.dumps({"model": "demo", "input": "hi", "stream": True, **fields}).encode()
        messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await there.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                there.set()

        scope = {"type": "http", "method": "POST", "path": RESPONSES, "headers": [], "query_string": b""}
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """The application is started, and goes down at the end."""
        self.opened.remove(self)
        to_app: asyncio.Queue[Any] = asyncio.Queue()
        from_app: asyncio.Queue[Any] = asyncio.Queue()
        app = asyncio.create_task(self._app({"type": "lifespan"}, to_app.get, from_app.put))
        await to_app.put({"type": "lifespan.startup"})
        assert (await from_app.get())["type"] == "lifespan.startup.complete"
        yield
        await to_app.put({"type": "lifespan.shutdown"})
        assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
        await app

    @property
    def prompt(self) -> str:
        """What the model was given last."""
        ids = self.pool.jobs[-1].request.prompt_ids
        text: str = demo_tokenizer().backend.decode(ids, skip_special_tokens=False)
        return text


def named_events(answer: httpx.Response) -> list[dict[str, Any]]:
    """Every event's object; each is named as its type says."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        if name == ": keep-alive":
            continue
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events
