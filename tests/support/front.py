"""The whole HTTP application over a scripted pool, asked in memory: what routes do, without a process."""

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
from models import CARD, demo_tokenizer
from scripted import Job, ScriptedPool
from starlette.types import ASGIApp

from tokenyard.broker.wire import Finish
from tokenyard.http.app import create_app
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool

OPTIONS = FrontOptions(run_dir=Path("/nowhere"))
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def says(text: str) -> Callable[[Job], None]:
    """A job that runs, says the text a token at a time, and stops, by itself or when it is cancelled."""

    def play(job: Job) -> None:
        job.run()
        for token_id in demo_tokenizer().backend.encode(text, add_special_tokens=False).ids:
            logprobs = {"logprobs": [[-0.5, [token_id, 7], [-0.5, float("-inf")]]]}
            job.sink.delta([token_id], logprobs if job.request.params.logprobs >= 0 else {}, None)
            if job.cancelled:
                return
        job.end()

    return play


def decides(*odds: float) -> Callable[[Job], None]:
    """A job of kind score whose tokens have these odds, as many as it asks for."""

    def play(job: Job) -> None:
        job.run()
        scores = [math.log(one) - 5 for one in odds[: len(job.request.params.score_ids)]]
        job.sink.delta([], {"scores": scores}, Finish("length"))

    return play


async def request(app: ASGIApp, method: str, path: str, **given: Any) -> httpx.Response:
    """One exchange with the application."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front", timeout=10) as client:
        return await client.request(method, path, **given)


def ask(pool: ScriptedPool, method: str, path: str, **given: Any) -> httpx.Response:
    """One exchange with a fresh application over this pool."""
    return asyncio.run(request(create_app(cast(Pool, pool), OPTIONS), method, path, **given))


def post(
    path: str, body: dict[str, Any], play: Callable[[Job], None] | None = None
) -> tuple[httpx.Response, list[Job]]:
    """One POST to a fresh application whose model says what `play` makes it say, and the jobs that came of it."""
    pool = ScriptedPool(CARD)
    pool.play = play or says("Hello 🤖!")
    return ask(pool, "POST", path, json=body), pool.jobs


def typed_events(response: httpx.Response) -> list[Any]:
    """Every event's object; checks that each is named by its type."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, empty = response.text.split("\n\n")
    assert empty == ""
    values = []
    for line in lines:
        name, data = line.split("\n")
        values.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {values[-1]['type']}"
    return values


def events(response: httpx.Response) -> list[Any]:
    """Every unnamed event's object; checks the end mark."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last, empty = response.text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]
