"""POST /tokenize, /detokenize and /apply-template: what a model is given, and what its tokens say. No job is made.

/tokenize and /detokenize have vLLM's shapes, /apply-template llama.cpp's.
"""

from typing import Any

from fastapi import FastAPI, Request

from tokenyard.http.bodies import read_body
from tokenyard.http.checks import array, boolean, integer, string
from tokenyard.http.errors import invalid
from tokenyard.http.fields import CHAT, Field, read
from tokenyard.http.schemas import ChatRequest, parse_chat
from tokenyard.http.service import Service

MAX_TOKENS = 1 << 20
"""Of one text, either way: above every context length."""

TOKENIZE: dict[str, Field] = {
    "model": Field(string(1, 512)),
    "prompt": Field(string(0, 1 << 26)),
    "add_special_tokens": Field(boolean),
    "return_token_strs": Field(boolean),
}
"""The fields of a text to tokenize. A conversation has those of chat, and the last of these."""
DETOKENIZE: dict[str, Field] = {
    "model": Field(string(1, 512)),
    "tokens": Field(array(integer(0, (1 << 32) - 1), high=MAX_TOKENS)),
}


def add_routes(api: FastAPI, service: Service) -> None:
    @api.post("/tokenize")
    async def tokenize(http: Request) -> dict[str, Any]:
        body = await read_body(http, dict)
        return await (_chat if "messages" in body else _text)(service, body)

    @api.post("/detokenize")
    async def detokenize(http: Request) -> dict[str, str]:
        values = await read_body(http, lambda body: read(body, DETOKENIZE))
        _require(values, "tokens")
        loaded = (await service.prompter(_model(service, values))).loaded
        return {"prompt": loaded.backend.decode(values["tokens"], skip_special_tokens=False)}

    @api.post("/apply-template")
    async def apply_template(http: Request) -> dict[str, str]:
        request = await read_body(http, lambda body: _conversation(service, body))
        return {"prompt": await (await service.prompter(request.model)).text_of_chat(request)}


async def _text(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    values = read(body, TOKENIZE)
    _require(values, "prompt")
    prompter = await service.prompter(_model(service, values))
    ids: list[int] = []
    if values["prompt"]:
        ids = await prompter.of_input(values["prompt"], "prompt", values.get("add_special_tokens", True))
    return _tokens(ids, prompter.card.context_length, values.get("return_token_strs", False) and prompter.loaded)


async def _chat(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    request = _conversation(service, body)
    prompter = await service.prompter(request.model)
    ids = (await prompter.of_chat(request)).ids
    shows = read(body, TOKENIZE).get("return_token_strs", False)
    return _tokens(ids, prompter.card.context_length, shows and prompter.loaded)


def _conversation(service: Service, body: dict[str, Any]) -> ChatRequest:
    """A chat request whose model may be left out where there is one only. Raises TokenyardError naming the field."""
    model = _model(service, read({"model": body.get("model")}, CHAT))
    return parse_chat({**body, "model": model})


def _tokens(ids: list[int], context_length: int, loaded: Any) -> dict[str, Any]:
    strings = [loaded.backend.id_to_token(token_id) or "" for token_id in ids] if loaded else None
    return {"count": len(ids), "max_model_len": context_length, "tokens": ids, "token_strs": strings}


def _model(service: Service, values: dict[str, Any]) -> str:
    name: str | None = values.get("model")
    return service.only_card().names[0] if name is None else name


def _require(values: dict[str, Any], name: str) -> None:
    if name not in values:
        invalid(name, "is required")
