"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them: adapters come and go while models serve."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from tokenyard.broker.errors import KINDS, TokenyardError, told_error
from tokenyard.broker.wire import Adapter, AddAdapter, Card, Message, RemoveAdapter
from tokenyard.http.adapters import adapter_of
from tokenyard.http.bodies import read_body
from tokenyard.http.catalog.adapters import CONFIG
from tokenyard.http.catalog.policy import shown
from tokenyard.http.checks import boolean, string
from tokenyard.http.errors import invalid
from tokenyard.http.fields import HARMLESS, Field, read, refused_unless
from tokenyard.http.service import Service

ANSWER_S = 600.0
"""All workers have loaded it by then, or one has failed: 2 GB at 30 Mbit/s."""
RETRY_MS = 1000

LOAD: dict[str, Field] = {
    "lora_name": Field(string(1, 512)),
    "lora_path": Field(string(1, 4096)),
    "load_inplace": Field(boolean),
    "base_model_name": Field(string(1, 512)),
    "is_3d_lora_weight": refused_unless(False, why="is of experts' weights, which cannot be adapted here"),
}
"""vLLM's fields; `base_model_name` where several models are served, as in its command line."""
UNLOAD: dict[str, Field] = {"lora_name": Field(string(1, 512)), "lora_int_id": HARMLESS}


def add_routes(api: FastAPI, service: Service) -> None:
    @api.post("/v1/load_lora_adapter")
    async def load(http: Request) -> PlainTextResponse:
        asked = await read_body(http, lambda body: read(body, LOAD, "lora_name", "lora_path"))
        source = await asyncio.to_thread(service.options.loras.resolve, asked["lora_path"])
        base = await asyncio.to_thread(_base, service, asked.get("base_model_name"), source)
        adapter = Adapter(asked["lora_name"], base.names[0], source, time.time_ns())
        await _settle(service, lambda req: AddAdapter(req, adapter, asked.get("load_inplace", False)))
        return PlainTextResponse(f"Success: LoRA adapter '{adapter.name}' added successfully.")

    @api.post("/v1/unload_lora_adapter")
    async def unload(http: Request) -> PlainTextResponse:
        name = (await read_body(http, lambda body: read(body, UNLOAD, "lora_name")))["lora_name"]
        await _settle(service, lambda req: RemoveAdapter(req, name))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _settle(service: Service, question: Callable[[int], Message]) -> None:
    """Have the broker do it. Raises TokenyardError with its reason where it cannot be done."""
    answer = await service.pool.ask(question, ANSWER_S)
    if answer is None:
        raise TokenyardError("pool_unavailable", "the workers did not answer in time", retry_ms=RETRY_MS)
    if answer.error:
        error = told_error(str(answer.body.get("code")), answer.error, str(answer.body.get("param", "lora_name")))
        error.retry_ms = RETRY_MS if KINDS[error.code].retry else 0
        raise error


def _base(service: Service, name: str | None, source: str) -> Card:
    """The model that is to have the adapter: the one that is named, else the only one, else what its files say."""
    if name is not None:
        card = service.pool.find(name)
        if card is None:
            raise TokenyardError("model_not_found", f"the model {shown(name)} is not up", "base_model_name")
        if adapter_of(card) is not None:
            invalid("base_model_name", "is an adapter itself")
        return card
    cards = service.pool.cards()
    if not cards:
        raise service.models.starting()
    if len(cards) == 1:
        return cards[0]
    named = _named_base(Path(source))
    found = [card for card in cards if named in (card.source, *card.names)]
    if len(found) != 1:
        names = ", ".join(card.names[0] for card in cards)
        invalid("base_model_name", f"is required, as several models are served: {names}")
    return found[0]


def _named_base(directory: Path) -> str:
    """What peft has written of it; empty where nothing can be read."""
    try:
        config = json.loads((directory / CONFIG).read_bytes())
    except (OSError, ValueError):
        return ""
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return named if isinstance(named, str) else ""
