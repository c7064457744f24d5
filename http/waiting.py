"""Answers whose model is not up yet: they wait for it where the client can see it, and do the rest of the work then.

A stream gets its headers and comments that tell how far the load is; what fails from then on is an event of its API's.
All else just waits. A client that goes away while it waits is noticed, and counts no more.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.errors import HttpError, shutting_down
from tokenyard.http.models import Wait
from tokenyard.http.replies import STREAM_HEADERS, body_message, client_gone

log = logging.getLogger(__name__)

T = TypeVar("T")
Failure = Callable[[TokenyardError], bytes]
"""The events that end a stream of an API."""

COMMENT_S = 1.0
"""Between two comments that say the same."""
LOOK_S = 0.25
"""Between two looks at how far a load is: the broker tells it every 300 ms."""


def comment(wait: Wait) -> bytes:
    """How far it is, as a server-sent comment: one line, whatever a client calls a model."""
    loading = wait.progress()
    if loading is None:
        far = ""
    elif loading.phase == "loading":
        far = f" {100 * loading.fraction:.0f} %"
    else:
        far = f": {loading.words or loading.phase}"
    line = " ".join(f"loading {wait.name}{far}".split())
    return f": {line}\n\n".encode()


class WaitingReply(Response, Generic[T]):
    """The answer that some work will give. Raises its failure for the app's handlers, as long as no header is out."""

    def __init__(
        self,
        awaited: Callable[[], Coroutine[Any, Any, T]],
        work: Callable[[T], Awaitable[Response]],
        wait: Wait,
        failure: Failure | None,
        header_wait_s: float,
    ) -> None:
        """`awaited` gives what `work` is done with, and is cancelled if the client goes. `failure`: how the answer, a
        stream, tells of one; None: it does not stream.
        """
        super().__init__()
        self._awaited = awaited
        self._work = work
        self._wait = wait
        self._failure = failure
        self._header_wait_s = header_wait_s
        self._opened = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            awaited = await self._wait_for_it(receive, send)
            if awaited is not None:
                answer = await self._work(awaited)
                await answer(scope, receive, self._after_headers(send))
        except asyncio.CancelledError:
            await self._fail(shutting_down(), send)
        except (TokenyardError, HttpError) as error:
            await self._fail(error, send)
        except Exception as error:  # A bug; before the headers it is the last resort's.
            if self._opened:
                log.exception("%s %s failed", scope["method"], scope["path"])
            await self._fail(error, send)

    async def _wait_for_it(self, receive: Receive, send: Send) -> T | None:
        """What was waited for; None where the client is gone."""
        waiting = asyncio.create_task(self._awaited())
        gone = asyncio.create_task(client_gone(receive))
        try:
            await self._show((waiting, gone), send)
            return await waiting if waiting.done() else None
        finally:
            for task in (waiting, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _show(self, tasks: Collection[asyncio.Future[Any]], send: Send) -> None:
        """Until one of them is done; a stream is opened meanwhile, and tells how far it is."""
        loop = asyncio.get_running_loop()
        opens_s = loop.time() + self._header_wait_s
        told, due_s = b"", 0.0
        while not any(task.done() for task in tasks):
            # Only loads are worth a stream's headers: what else there is to find out is quick, and may be refused.
            if self._failure and self._wait.loads and loop.time() >= opens_s:
                if not self._opened:
                    await self._open(send)
                line = comment(self._wait)
                if line != told or loop.time() >= due_s:
                    told, due_s = line, loop.time() + COMMENT_S
                    await send(body_message(line))
            await asyncio.wait(tasks, timeout=LOOK_S if self._failure else None, return_when=asyncio.FIRST_COMPLETED)

    async def _open(self, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in STREAM_HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._opened = True

    def _after_headers(self, send: Send) -> Send:
        """Sends what an answer sends, but for headers that are out already."""
        if not self._opened:
            return send

        async def send_rest(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)

        return send_rest

    async def _fail(self, error: Exception, send: Send) -> None:
        if not self._opened or self._failure is None:
            raise error
        if isinstance(error, HttpError):
            error = TokenyardError("invalid_value" if error.status < 500 else "worker_error", error.words)
        elif not isinstance(error, TokenyardError):
            error = TokenyardError("worker_error", "the server failed at this answer; its log says why")
        log.warning("a stream ends while it waits for its model: %s: %s", error.code, error.words)
        await send(body_message(self._failure(error)))
        await send(body_message(b"", more=False))
