"""What a connection may cost: clients that are slow, or whose head is large, are cut; others are not."""

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tokenyard.http import guard
from tokenyard.http.guard import GuardedProtocol

HEAD = b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, after x-wait seconds; one that never comes whole gets no answer."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await asyncio.sleep(float(dict(scope["headers"]).get(b"x-wait", 0)))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def talk(*parts: bytes, pause_s: float = 0.0, patience_s: float = 5.0) -> bytes:
    """What a server says to a client that sends these parts, until it closes or the patience is over."""

    async def run() -> bytes:
        config = uvicorn.Config(echo, http=GuardedProtocol, log_config=None, lifespan="off", port=0)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.001)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        said = b""
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause_s)
            async with asyncio.timeout(patience_s):
                while piece := await reader.read(1 << 16):
                    said += piece
        except TimeoutError:
            pass
        finally:
            writer.close()
            server.should_exit = server.force_exit = True
            await serving
        return said

    return asyncio.run(run())


def refusal(said: bytes) -> tuple[int, Any]:
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HEAD_S", 0.3)
    monkeypatch.setattr(guard, "BODY_S", 0.3)


@pytest.mark.usefixtures("quick")
def test_a_head_that_never_ends_is_cut() -> None:
    assert refusal(talk(HEAD[:20])) == (408, "request_timeout")


@pytest.mark.usefixtures("quick")
def test_a_connection_that_says_nothing_is_closed() -> None:
    assert talk() == b""


@pytest.mark.usefixtures("quick")
def test_a_body_that_never_ends_is_cut() -> None:
    assert refusal(talk(HEAD + b"\r\nhalf")) == (408, "request_timeout")


def test_a_body_has_as_long_as_its_bytes_earn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.2)
    monkeypatch.setattr(guard, "MIN_BYTES_PER_S", 10)
    said = talk(HEAD + b"\r\nhal", b"f a ", b"body!", pause_s=0.25, patience_s=0.5)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.endswith(b"half a body!")


@pytest.mark.usefixtures("quick")
def test_an_answer_may_take_longer_than_its_request() -> None:
    said = talk(HEAD + b"x-wait: 1\r\n\r\nhalf a body!", patience_s=1.5)
    assert said.endswith(b"half a body!")


@pytest.mark.parametrize("in_pieces", [True, False])
def test_a_large_head_is_refused(in_pieces: bool) -> None:
    line = b"cookie: " + guard.MAX_HEAD_BYTES // 4 * b"x"
    # The last piece is the one too many: what comes after an answer may cost the client its end.
    parts = [HEAD, *4 * [line]] if in_pieces else [HEAD + 4 * (line + b"\r\n") + b"\r\n"]
    assert refusal(talk(*parts, pause_s=0.05)) == (431, "headers_too_large")


def test_what_is_no_http_is_told_so() -> None:
    assert refusal(talk(b"hello\r\n\r\n")) == (400, "bad_request")


def test_who_asks_for_a_websocket_is_answered_as_without(caplog: pytest.LogCaptureFixture) -> None:
    wish = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n"
    said = talk(b"GET /v1/x HTTP/1.1\r\nhost: x\r\n" + wish + b"\r\n", patience_s=0.5)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert caplog.text == ""
