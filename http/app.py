"""The HTTP API: routes, error handlers and what wraps them. Knows no sockets: the pool is given."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http.chat import ChatFormat, plan_chat
from tokenyard.http.completions import CompletionFormat, plan_completion
from tokenyard.http.errors import HttpError
from tokenyard.http.generation import Generation
from tokenyard.http.library import TokenizerLibrary
from tokenyard.http.middleware import ApiKeys, BodyLimit, LastResort, RequestIds, error_response
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import EventStream, WholeReply
from tokenyard.http.sampling import unsupported_defaults
from tokenyard.http.schemas import parse_chat, parse_completion, parse_json

log = logging.getLogger(__name__)

VERSION = version("tokenyard")

STARTING_RETRY_MS = 1000
"""A worker takes seconds to load; asking once a second costs nobody anything."""

WELCOME_WAIT_S = 1.0
"""A broker that lives answers within milliseconds; without one, /health must answer all the same."""


def create_app(pool: Pool, options: FrontOptions) -> ASGIApp:
    """The whole application; its lifespan starts and closes the pool."""
    library = TokenizerLibrary()

    def on_card(card: Card) -> None:
        library.preload(card)
        if names := unsupported_defaults(card.generation_config):
            log.warning("%s: its generation_config sets what is not done here: %s", card.names[0], ", ".join(names))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool.on_card = on_card
        await pool.start()
        # The socket listens already: a front that was restarted answers its first client late rather than with a 503.
        await pool.wait_welcomed(WELCOME_WAIT_S)
        yield
        await pool.close()

    api = FastAPI(
        lifespan=lifespan,
        middleware=[Middleware(LastResort)],
        exception_handlers={
            TokenyardError: _on_failure,
            HttpError: _on_failure,
            HTTPException: _on_http_exception,
            ClientDisconnect: _on_client_gone,
        },
        # The field tables validate, so there is no schema to show.
        openapi_url=None,
        redirect_slashes=False,
    )
    _add_probes(api, pool, library)
    _add_models(api, pool)
    _add_generation(api, pool, library, options)
    app: ASGIApp = BodyLimit(api, options.max_body_bytes)
    app = ApiKeys(app, options.api_keys)
    app = RequestIds(app, options.access_log)
    # Outermost, so that refusals and 500s carry its headers too: browsers hide answers without them.
    return CORSMiddleware(
        app,
        allow_origins=options.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )


def _add_probes(api: FastAPI, pool: Pool, library: TokenizerLibrary) -> None:
    @api.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.api_route("/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        if pool.ready and any(library.has(card) for card in pool.cards()):
            return JSONResponse({"status": "ready", "workers": pool.num_workers, "models": len(pool.cards())})
        return error_response(_starting(pool))

    @api.get("/version")
    async def get_version() -> dict[str, str]:
        return {"version": VERSION}


def _add_models(api: FastAPI, pool: Pool) -> None:
    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(card) for card in pool.cards()]}

    @api.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        return _model(_find(pool, name))


def _add_generation(api: FastAPI, pool: Pool, library: TokenizerLibrary, options: FrontOptions) -> None:
    async def get_prompter(model: str) -> Prompter:
        card = _find(pool, model)
        return Prompter(card, await library.get(card))

    @api.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        request = parse_chat(parse_json(await http.body()))
        prompter = await get_prompter(request.model)
        generation = Generation(pool, await plan_chat(request, prompter))
        form = ChatFormat(request, prompter, generation)
        return EventStream(generation, form, options) if request.stream else WholeReply(generation, form)

    @api.post("/v1/completions")
    async def completions(http: Request) -> Response:
        request = parse_completion(parse_json(await http.body()))
        prompter = await get_prompter(request.model)
        generation = Generation(pool, await plan_completion(request, prompter))
        form = CompletionFormat(request, prompter, generation)
        return EventStream(generation, form, options) if request.stream else WholeReply(generation, form)


def _find(pool: Pool, name: str) -> Card:
    """Raises TokenyardError: the model is unknown, or none is known yet."""
    if (card := pool.find(name)) is not None:
        return card
    if not pool.cards():
        raise _starting(pool)
    raise TokenyardError("model_not_found", f"the model {name!r} is not served here; GET /v1/models lists", "model")


def _starting(pool: Pool) -> TokenyardError:
    if not pool.connected:
        return TokenyardError("pool_unavailable", "no connection to the broker yet", retry_ms=STARTING_RETRY_MS)
    return TokenyardError("model_loading", "no model is up yet", retry_ms=STARTING_RETRY_MS)


def _model(card: Card) -> dict[str, Any]:
    """OpenAI's model object, and what else is known."""
    return {
        "id": card.names[0],
        "object": "model",
        "created": card.created,
        "owned_by": "tokenyard",
        "names": card.names,
        "source": card.source,
        "commit": card.commit,
        "context_length": card.context_length,
        "max_model_len": card.context_length,
        "lane": card.lane,
        "dtype": card.dtype,
        "device": card.device,
    }


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, TokenyardError | HttpError)
    return error_response(error)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    """The client left before its body was whole: nobody reads this, the access log has it."""
    return Response(status_code=499)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """The router's own refusals."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        failure = HttpError(405, "method_not_allowed", f"{request.method} is not allowed for {request.url.path}")
    elif error.status_code == 404:
        failure = HttpError(404, "not_found", f"there is nothing at {request.url.path}")
    else:
        failure = HttpError(error.status_code, "bad_request", error.detail)
    response = error_response(failure)
    response.headers.update(error.headers or {})
    return response
