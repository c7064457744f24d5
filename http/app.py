"""The HTTP API: routes, error handlers and what wraps them. Knows no sockets: the pool is given."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Card
from tokenyard.http import chat_api, completions, embeddings, loras, metrics, model_routes, tokenizing
from tokenyard.http.anthropic import endpoints as anthropic
from tokenyard.http.decisions import routes as decisions
from tokenyard.http.drain import Drain, Gate
from tokenyard.http.errors import HttpError, body_of, headers_of, shutting_down, status_of
from tokenyard.http.generation_config import unsupported_defaults
from tokenyard.http.mcp import routes as mcp
from tokenyard.http.middleware import ApiKeys, BodyLimit, LastResort, RequestIds, error_response
from tokenyard.http.openapi import document
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool
from tokenyard.http.responses import routes as responses
from tokenyard.http.service import Service
from tokenyard.http.tgi import routes as tgi

log = logging.getLogger(__name__)

VERSION = version("tokenyard")

WELCOME_WAIT_S = 1.0
"""A broker that lives answers within milliseconds; without one, /health must answer all the same."""


ENDPOINTS: tuple[Callable[[FastAPI, Service], None], ...] = (
    chat_api.add_routes,
    completions.add_routes,
    embeddings.add_routes,
    loras.add_routes,
    anthropic.add_routes,
    responses.add_routes,
    mcp.add_routes,
    tgi.add_routes,
    model_routes.add_routes,
    tokenizing.add_routes,
    decisions.add_routes,
    document.add_routes,
    metrics.add_routes,
)
"""Each adds the routes of one API."""


def create_app(pool: Pool, options: FrontOptions, drain: Drain | None = None) -> ASGIApp:
    """The whole application; its lifespan starts and closes the pool. `drain`: begun by who ends the process."""
    drain = drain or Drain(options.drain_s)
    service = Service(pool, options, drain)

    def on_card(card: Card) -> None:
        service.models.came(card)
        if names := unsupported_defaults(card):
            log.warning("%s: its generation_config sets what is not done here: %s", card.names[0], ", ".join(names))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool.on_card = on_card
        await service.start()
        await pool.start()
        # The socket listens already: a front that was restarted answers its first client late rather than with a 503.
        await pool.wait_welcomed(WELCOME_WAIT_S)
        yield
        await service.close()
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
        # FastAPI would know nothing of bodies: the field tables read them, and openapi/document.py tells of them.
        openapi_url=None,
        redirect_slashes=False,
    )
    for add_routes in (_add_probes, *ENDPOINTS):
        add_routes(api, service)
    app: ASGIApp = BodyLimit(api, options.max_body_bytes)
    app = ApiKeys(app, options.api_keys, options.max_requests_per_key)
    app = RequestIds(Gate(app, drain), pool.figures)
    # Outermost, so that refusals and 500s carry its headers too: browsers hide answers without them.
    return CORSMiddleware(
        app,
        allow_origins=options.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "request-id", "retry-after"],
    )


def _add_probes(api: FastAPI, service: Service) -> None:
    pool = service.pool

    @api.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.api_route("/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        if service.drain.has_begun:
            error = shutting_down()
            return JSONResponse({"status": "draining", **body_of(error)}, status_of(error), headers_of(error))
        if service.models.ready:
            return JSONResponse({"status": "ready", "workers": pool.num_workers, "models": len(pool.cards())})
        return error_response(service.models.starting(), "/ready")

    @api.get("/version")
    async def get_version() -> dict[str, str]:
        return {"version": VERSION}


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, TokenyardError | HttpError)
    return error_response(error, request.url.path)


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
    response = error_response(failure, request.url.path)
    response.headers.update(error.headers or {})
    return response
