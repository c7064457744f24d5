"""Parts of a body written straight to the connection: the same bytes as through every layer, and the same patience."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenyard.http import direct
from tokenyard.http.guard import GuardedProtocol

PARTS = [b"data: one\n\n", b"x" * 5000, "data: zwölf\n\n".encode()]
GET = b"GET / HTTP/1.1\r\nhost: x\r\norigin: http://a\r\n%s\r\n"
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def streaming(parts: list[bytes], taken: list[bool], wait: Callable[[], Any] | None = None) -> ASGIApp:
    """Sends these parts, each by the direct way if it is taken there; `taken` says which were."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["raw_path"])]})
        writer = direct.find(scope)
        for part in parts:
            if wait is not None:
                await wait()
            taken.append(writer is not None and writer(part))
            if not taken[-1]:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        assert writer is None or not writer(b"after the end")

    return CORSMiddleware(app, allow_origins=["*"])


@asynccontextmanager
async def serving(app: ASGIApp, http: Any) -> Any:
    """Yields a way to connect."""
    config = uvicorn.Config(app, http=http, log_config=None, lifespan="off", port=0, date_header=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    yield lambda: asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = server.force_exit = True
    await task


def told(http: Any, request: bytes, taken: list[bool]) -> bytes:
    """All that the server says to this request, which asks it to close."""

    async def run() -> bytes:
        async with asyncio.timeout(10), serving(streaming(PARTS, taken), http) as connect:
            reader, writer = await connect()
            writer.write(request)
            said: bytes = await reader.read()
            writer.close()
            return said

    return asyncio.run(run())


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET % b"connection: close\r\n",
        # Two at once: the second waits for the first, and each has a writer of its own.
        GET % b"" + (GET % b"connection: close\r\n").replace(b"/", b"/second", 1),
        (GET % b"connection: close\r\n").replace(b"GET", b"HEAD"),
        (GET % b"").replace(b"1.1", b"1.0"),
    ],
    ids=["one", "pipelined", "head", "http 1.0"],
)
def test_the_bytes_are_those_of_the_long_way(request_bytes: bytes) -> None:
    taken: list[bool] = []
    said = told(GuardedProtocol, request_bytes, taken)
    assert any(taken) == (b"HEAD" not in request_bytes)
    plain: list[bool] = []
    assert said == told("httptools", request_bytes, plain)
    assert not any(plain)


def test_who_lags_is_waited_for_and_misses_nothing() -> None:
    parts = [bytes([number]) * 100_000 for number in range(200)]
    taken: list[bool] = []

    async def run() -> bytes:
        async with asyncio.timeout(20), serving(streaming(parts, taken), GuardedProtocol) as connect:
            reader, writer = await connect()
            writer.write(GET % b"connection: close\r\n")
            await asyncio.sleep(0.2)
            assert len(taken) < len(parts)
            said: bytes = await reader.read()
            writer.close()
            return said

    said = asyncio.run(run())
    assert set(taken) == {True, False}
    body = said.partition(b"\r\n\r\n")[2]
    assert body == b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_who_has_gone_is_written_nothing() -> None:
    taken: list[bool] = []
    gone = asyncio.Event()

    async def run() -> None:
        async with asyncio.timeout(10), serving(streaming(PARTS, taken, gone.wait), GuardedProtocol) as connect:
            _, writer = await connect()
            writer.write(GET % b"")
            await asyncio.sleep(0.1)
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.1)
            gone.set()
            await asyncio.sleep(0.1)

    asyncio.run(run())
    assert taken == [False, False, False]
