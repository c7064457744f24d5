"""Answers on their way to the client: one JSON body, or server-sent events written straight from the token callback.

Both speak ASGI themselves, notice at once when the client goes, and then cancel the request's jobs. Knows nothing of
what is inside a chunk: that is Format's.
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Protocol, cast

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tokenyard.broker.errors import TokenyardError
from tokenyard.http import direct
from tokenyard.http.choice import Choice, Piece
from tokenyard.http.cork import Cork
from tokenyard.http.errors import SHUT_DOWN, body_of, shutting_down
from tokenyard.http.generation import Generation
from tokenyard.http.options import FrontOptions

MANY_SCORES = 128
"""Where logprobs of a longer prompt are told, a thread shapes the answer: with 20 likeliest, a token takes 30 µs."""
PAUSE_LAG_BYTES = 64 << 10
"""A client that is so far behind has its sequences paused until it has all: some 250 tokens, and as much as asyncio and
uvicorn let gather in a connection before they call it slow."""
MAX_LAG_BYTES = 4 << 20
"""Unsent events kept for a client that lags: 16,000 tokens at 250 bytes. A client further behind is cut."""

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # nginx would gather events into blocks.
    "x-accel-buffering": "no",
}


class WholeFormat(Protocol):
    """One endpoint's shape of a whole answer."""

    def whole(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        """The body of a request that does not stream; `pieces` by choice index."""


class Format(WholeFormat, Protocol):
    """One endpoint's shapes, streamed and whole."""

    def opening(self, choice: Choice) -> bytes:
        """Events that come before a choice's first piece."""

    def chunk(self, choice: Choice, piece: Piece) -> bytes:
        """Events that carry a piece; empty where there is nothing to say."""

    def closing(self) -> bytes:
        """Events after the last piece: the stream's end."""

    def failure(self, error: TokenyardError) -> bytes:
        """Events that end the stream instead, wherever it is."""


def event(value: Any) -> bytes:
    """One unnamed server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def typed_event(value: dict[str, Any]) -> bytes:
    """One server-sent event with the name that its `type` says."""
    name: str = value["type"]
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


def openai_failure(error: TokenyardError) -> bytes:
    """How OpenAI's older streams end in a failure."""
    return event(body_of(error)) + DONE


async def client_gone(receive: Receive) -> None:
    """Returns once the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class WholeReply(Response):
    """Gathers all choices, then sends one body. Raises the generation's failure for the app's error handlers."""

    def __init__(self, generation: Generation, form: WholeFormat) -> None:
        super().__init__()
        self._generation = generation
        self._form = form
        self._pieces: list[list[Piece]] = [[] for _ in generation.choices]
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def started(self, choice: Choice) -> None:
        """Nothing is sent before the end."""

    def piece(self, choice: Choice, piece: Piece) -> None:
        self._pieces[choice.index].append(piece)
        if self._generation.finished:
            self._done.set_result(None)

    def failed(self, error: TokenyardError) -> None:
        self._done.set_exception(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(client_gone(receive))
        try:
            self._generation.start(self)
            await asyncio.wait((self._done, gone), return_when=asyncio.FIRST_COMPLETED)
            if self._done.done():
                self._done.result()
                is_large = any(len(choice.prompt_scores.tokens) > MANY_SCORES for choice in self._generation.choices)
                body = await asyncio.to_thread(self._shape) if is_large else self._shape()
                await Response(body, media_type="application/json")(scope, receive, send)
        except asyncio.CancelledError:  # only the server does it, when the time to drain is over
            self._generation.cancel(SHUT_DOWN)
            raise shutting_down() from None
        finally:
            gone.cancel()
            self._generation.cancel()

    def _shape(self) -> bytes:
        return orjson.dumps(self._form.whole(self._pieces))


class EventStream(Response):
    """Streams chunks. Headers wait until the first job runs, so that a refusal is still an HTTP status."""

    def __init__(self, generation: Generation, form: Format, options: FrontOptions, cork: Cork | None = None) -> None:
        super().__init__()
        self._generation = generation
        self._form = form
        self._options = options
        self._cork = cork or Cork()
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        """Nothing more will be written: finished, failed, or the client is cut."""
        self._send: Send | None = None
        """Set once headers are out; until then events are kept."""
        self._direct: direct.DirectWriter | None = None
        """The shorter way for what `_send` takes, where the server has one."""
        self._kept: list[bytes] = []
        """Events that wait for headers, for the cork, or for a client that lags."""
        self._num_kept_bytes = 0
        self._corked = False
        """Whether the cork will have what is kept written."""
        self._sending: asyncio.Task[None] | None = None
        """A send that the client's lag made wait."""
        self._num_writes = 0
        self._error: TokenyardError | None = None
        self._cut = False
        self._paused = False

    # From the generation, inside the socket's callback.

    def started(self, choice: Choice) -> None:
        if not self._opened.done():
            self._opened.set_result(None)
        self._write(self._form.opening(choice))

    def piece(self, choice: Choice, piece: Piece) -> None:
        if chunk := self._form.chunk(choice, piece):
            self._write(chunk)
        if piece.finish_reason is not None and self._generation.finished:
            self._write(self._form.closing())
            self._end()

    def failed(self, error: TokenyardError) -> None:
        self._error = error
        if not self._opened.done():
            self._opened.set_result(None)
        self._write(self._form.failure(error))
        self._end()

    # To the client.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(client_gone(receive))
        beat: asyncio.Task[None] | None = None
        try:
            self._generation.start(self)
            wait_s = self._options.header_wait_s
            await asyncio.wait((self._opened, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            if self._error is not None:
                raise self._error
            self._direct = direct.find(scope)
            await self._open(send)
            beat = asyncio.create_task(self._keep_alive())
            await asyncio.wait((self._ended, gone), return_when=asyncio.FIRST_COMPLETED)
            while self._sending is not None and not gone.done() and not self._cut:
                await asyncio.wait((self._sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if not gone.done() and not self._cut:
                await send(body_message(b"", more=False))
        except asyncio.CancelledError:  # only the server does it, when the time to drain is over
            self._generation.cancel(SHUT_DOWN)
            if self._send is None:
                raise shutting_down() from None
            await send(body_message(self._form.failure(shutting_down()), more=False))
        finally:
            gone.cancel()
            if beat is not None:
                beat.cancel()
            if self._sending is not None:
                self._sending.cancel()
            self._generation.cancel()

    async def _open(self, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in STREAM_HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._send = send
        self._write(self._take_kept() or KEEP_ALIVE)

    def _write(self, data: bytes) -> None:
        """Send now, without a task, if the client keeps up; otherwise keep it until it does."""
        if not data or self._cut:
            return
        self._num_writes += 1
        if self._send is None or self._sending is not None or self._cork.held:
            self._keep(data)
        elif self._direct is None or not self._direct(data):
            self._step_send(self._send, data)

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._num_kept_bytes += len(data)
        if self._num_kept_bytes > MAX_LAG_BYTES:
            self._cut_client()
        elif self._sending is not None and self._num_kept_bytes > PAUSE_LAG_BYTES and not self._paused:
            self._paused = True
            self._generation.pause(on=True)
        elif self._cork.held and not self._corked:
            self._corked = True
            self._cork.wait(self._uncork)

    def _uncork(self) -> None:
        """Write what was kept for the cork only."""
        self._corked = False
        if self._kept and self._send is not None and self._sending is None:
            data = self._take_kept()
            if self._direct is None or not self._direct(data):
                self._step_send(self._send, data)

    def _take_kept(self) -> bytes:
        kept, self._kept, self._num_kept_bytes = self._kept, [], 0
        return b"".join(kept)

    def _step_send(self, send: Send, data: bytes) -> None:
        sending = cast(Coroutine[Any, Any, None], send(body_message(data)))
        try:
            waited_for = sending.send(None)
        except StopIteration:
            return
        self._sending = asyncio.create_task(self._catch_up(_Suspended(sending, waited_for)))

    async def _catch_up(self, suspended: "_Suspended") -> None:
        """Finish a send that had to wait, then send what has gathered meanwhile, many events at a time."""
        assert self._send is not None
        try:
            async with asyncio.timeout(self._options.stall_s):
                await suspended
            while self._kept:
                data = self._take_kept()
                async with asyncio.timeout(self._options.stall_s):
                    await self._send(body_message(data))
            if self._paused:
                self._paused = False
                self._generation.pause(on=False)
        except TimeoutError:
            self._cut_client()
        finally:
            self._sending = None

    def _cut_client(self) -> None:
        """Give up on a client that does not read; the server closes a connection whose response stays incomplete."""
        self._cut = True
        self._kept.clear()
        self._generation.cancel()
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def _keep_alive(self) -> None:
        while True:
            seen = self._num_writes
            await asyncio.sleep(self._options.keep_alive_s)
            if self._num_writes == seen:
                self._write(KEEP_ALIVE)


def body_message(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class _Suspended:
    """A coroutine that was stepped by hand until it had to wait; awaiting this in a task goes on from there."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waited_for: Any) -> None:
        self._coroutine = coroutine
        self._waited_for = waited_for

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._waited_for
            yield from self._coroutine.__await__()
        finally:
            self._coroutine.close()
