"""GET /v1/models: which models there are. POST /load_model, /v1/models/load and /unload: loading them by hand.

/load_model has transformers' own server's shape, events and all, for its clients (`transformers chat`).
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Loading
from tokenyard.http.anthropic import models as anthropic
from tokenyard.http.bodies import read_body
from tokenyard.http.checks import string
from tokenyard.http.fields import Field, read
from tokenyard.http.models import Wait
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import STREAM_HEADERS, event
from tokenyard.http.service import Service
from tokenyard.http.waiting import LOOK_S, WaitingReply

LOAD: dict[str, Field] = {"model": Field(string(1, 512))}
"""What all three take."""
STAGES = {"loading": "weights"}
"""transformers' words for phases of a load; it has none for a place and a process to come."""


def add_routes(api: FastAPI, service: Service) -> None:
    models = service.models
    service.on_close(models.close)

    @api.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        entries = await models.listing()
        if anthropic.is_anthropic(request.headers):
            return anthropic.page(entries, request.query_params)
        return {"object": "list", "data": entries}

    @api.get("/v1/models/{name:path}")
    async def get_model(request: Request, name: str) -> dict[str, Any]:
        entry = await models.entry(name)
        return anthropic.model(entry) if anthropic.is_anthropic(request.headers) else entry

    @api.post("/load_model")
    async def load_with_events(http: Request) -> Response:
        name = await read_body(http, _name)
        return StreamingResponse(_progress(service, name), headers=STREAM_HEADERS, media_type="text/event-stream")

    @api.post("/v1/models/load")
    async def load(http: Request) -> Response:
        name = await read_body(http, _name)

        async def work(prompter: Prompter) -> Response:
            return JSONResponse(await models.entry(prompter.card.names[0]))

        return await service.answer(name, work)

    @api.post("/v1/models/unload")
    async def unload(http: Request) -> Response:
        name = await read_body(http, _name)
        card = service.pool.find(name)
        model = card.names[0] if card else name

        async def unloaded() -> str:
            await service.pool.unload(model)
            return model

        async def work(model: str) -> Response:
            return JSONResponse({"id": model, "object": "model", "unloaded": True})

        return WaitingReply(unloaded, work, Wait(model), None, 0.0)


def _name(body: dict[str, Any]) -> str:
    return str(read(body, LOAD, "model")["model"])


async def _progress(service: Service, name: str) -> AsyncIterator[bytes]:
    """The events of one load, up to `ready` or `error`."""
    if (at_hand := service.models.at_hand(name)) is not None:
        yield event({"status": "ready", "model": at_hand.card.names[0], "cached": True})
        return
    wait = Wait(name)
    loading = asyncio.create_task(service.models.prompter(wait))
    try:
        told: dict[str, Any] = {}
        while not loading.done():
            shown = _stage(wait, wait.progress())
            if shown != told:
                told = shown
                yield event(shown)
            await asyncio.wait({loading}, timeout=LOOK_S)
        prompter = loading.result()
        yield event({"status": "ready", "model": prompter.card.names[0], "cached": False})
    except TokenyardError as error:
        yield event({"status": "error", "model": wait.name, "message": error.words})
    finally:
        loading.cancel()


def _stage(wait: Wait, loading: Loading | None) -> dict[str, Any]:
    """What is done and, where it is known, how far; without a load the front has something to find out or to read."""
    stage = STAGES.get(loading.phase, loading.phase) if loading else "processor"
    shown: dict[str, Any] = {"status": "loading", "model": wait.name, "stage": stage}
    if loading is not None and loading.phase == "loading":
        shown["progress"] = {"current": round(100 * loading.fraction), "total": 100}
    return shown
