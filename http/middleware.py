"""What wraps every request: ids, keys, body limit, and the last resort. Pure ASGI, so that streams pass untouched.

(Starlette's BaseHTTPMiddleware costs a task and a queue per message: 61 instead of 25 µs a token, measured.)
"""

import asyncio
import logging
import re
import secrets
from collections import Counter

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenyard.http.errors import INTERNAL, Failure, HttpError, headers_of, shape_of, status_of
from tokenyard.http.figures import Figures
from tokenyard.http.keys import KeyRing
from tokenyard.http.memory import trim
from tokenyard.http.request_log import RECORD, RequestRecord

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/openapi.json"})
"""For load balancers and people: never behind a key."""

KEY_RETRY_MS = 1000
"""What a key at its limit is told: nobody knows when one of its own requests will end."""

TRIM_BYTES = 1 << 18
"""A body of so much text is a prompt of some 50,000 tokens, which took the tokenizer 10 MB."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def error_response(error: Failure, path: str) -> JSONResponse:
    """The body in the shape of the path's API, the status, and Retry-After where there is one; the log hears of it."""
    if (record := RECORD.get()) is not None:
        record.finish = error.code
    headers = headers_of(error)
    if status_of(error) == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(shape_of(path)(error), status_of(error), headers)


class RequestIds:
    """Gives every answer an X-Request-Id: the client's own, echoed and logged and otherwise unused, or one we make.
    Anthropic's clients read it as Request-Id.

    Counts the request and writes its line in the log too, since it sees every one begin and end.
    """

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else b"req_" + secrets.token_hex(12).encode()
        path = scope.get("raw_path") or scope["path"].encode()
        record = RequestRecord(request_id.decode(), scope["method"], path.decode("ascii", "backslashreplace"))
        RECORD.set(record)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                ids = [(b"x-request-id", request_id), (b"request-id", request_id)]
                message["headers"] = [*message.get("headers", ()), *ids]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # The route and not the path, which anyone can make up: labels must stay few.
            route = getattr(scope.get("route"), "path", "none")
            self._figures.count("http_requests", scope["method"], route, str(record.status))
            record.write()


class ApiKeys:
    """Lets in who sends one of the keys, and as many of each key's requests at once as its limit allows."""

    def __init__(self, app: ASGIApp, keys: KeyRing, max_requests: int | None = None) -> None:
        """`max_requests`: of one key at once, here; None: any number."""
        self._app = app
        self._keys = keys
        self._max_requests = max_requests
        self._num_running: Counter[int] = Counter()
        """Requests that have not ended, by key."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        key = self._keys.find(dict(scope["headers"]))
        if key is None:
            error = HttpError(401, "invalid_api_key", "send one of the server's API keys: Authorization: Bearer KEY")
            return await error_response(error, scope["path"])(scope, receive, send)
        if self._max_requests is not None and self._num_running[key] >= self._max_requests:
            words = f"this key has {self._max_requests} requests running, as many as it may have at once"
            error = HttpError(429, "too_many_requests", words, "rate_limit_error", KEY_RETRY_MS)
            return await error_response(error, scope["path"])(scope, receive, send)
        self._num_running[key] += 1
        try:
            return await self._app(scope, receive, send)
        finally:
            self._num_running[key] -= 1


class BodyLimit:
    """Refuses bodies above a size, before they are read where the length is announced; clears up after large ones."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        error = HttpError(413, "request_too_large", f"the body is over the limit of {self._max_bytes:,} bytes")
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            return await error_response(error, scope["path"])(scope, receive, send)
        num_bytes = 0

        async def receive_limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise error
            return message

        try:
            return await self._app(scope, receive_limited, send)
        finally:
            if num_bytes > TRIM_BYTES:
                await asyncio.to_thread(trim)


class LastResort:
    """Turns a bug into a 500 in OpenAI's shape; the traceback goes to the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False

        async def send_noticing(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noticing)
        except Exception:  # Whatever a request meets, the next one is served.
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not begun:
                await error_response(INTERNAL, scope["path"])(scope, receive, send)
