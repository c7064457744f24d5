"""POST /tokenize, /detokenize and /apply-template: what a model is given, and what its tokens say. No job is made.

/tokenize and /detokenize have vLLM's shapes, /apply-template llama.cpp's.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tokenyard.http.bodies import read_body
from tokenyard.http.checks import array, boolean, integer, string
from tokenyard.http.errors import invalid
from tokenyard.http.fields import CHAT, Field, read
from tokenyard.http.prompt import Prompter
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
    async def tokenize(http: Request) -> Response:
        body = await read_body(http, dict)
        return await (_chat if "messages" in body else _text)(service, body)

    @api.post("/detokenize")
    async def detokenize(http: Request) -> Response:
        values = await read_body(http, lambda body: read(body, DETOKENIZE, "tokens"))

        async def work(prompter: Prompter) -> Response:
            text = prompter.loaded.backend.decode(values["tokens"], skip_special_tokens=False)
            return JSONResponse({"prompt": text})

        return await service.answer(_model(service, values), work, reads_only=True)

    @api.post("/apply-template")
    async def apply_template(http: Request) -> Response:
        request = await read_body(http, lambda body: _conversation(service, body))

        async def work(prompter: Prompter) -> Response:
            return JSONResponse({"prompt": await prompter.text_of_chat(request)})

        return await service.answer(request.model, work, reads_only=True)


async def _text(service: Service, body: dict[str, Any]) -> Response:
    values = read(body, TOKENIZE, "prompt")

    async def work(prompter: Prompter) -> Response:
        ids: list[int] = []
        if values["prompt"]:
            ids = await prompter.of_input(values["prompt"], "prompt", values.get("add_special_tokens", True))
        return _tokens(ids, prompter, values.get("return_token_strs", False))

    return await service.answer(_model(service, values), work, reads_only=True)


async def _chat(service: Service, body: dict[str, Any]) -> Response:
    request = _conversation(service, body)
    values = read(body, TOKENIZE)
    if "prompt" in values:
        invalid("prompt", "does not go with messages: their template makes it")
    shows = values.get("return_token_strs", False)

    async def work(prompter: Prompter) -> Response:
        return _tokens((await prompter.of_chat(request)).ids, prompter, shows)

    return await service.answer(request.model, work, reads_only=True)


def _conversation(service: Service, body: dict[str, Any]) -> ChatRequest:
    """A chat request whose model may be left out where there is one only. Raises TokenyardError naming the field."""
    model = _model(service, read({"model": body.get("model")}, CHAT))
    return parse_chat({**body, "model": model})


def _tokens(ids: list[int], prompter: Prompter, shows: bool) -> Response:
    backend = prompter.loaded.backend
    strings = [backend.id_to_token(token_id) or "" for token_id in ids] if shows else None
    longest = prompter.card.context_length
    return JSONResponse({"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": strings})


def _model(service: Service, values: dict[str, Any]) -> str:
    name: str | None = values.get("model")
    return service.models.only_card().names[0] if name is None else name
