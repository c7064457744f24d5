"""What wraps every request: keys, ids, body limit, CORS, and the last resort, all in OpenAI's shape."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from models import CARD
from scripted import ScriptedPool

from tokenyard.http.app import create_app
from tokenyard.http.keys import KeyRing
from tokenyard.http.openapi.operations import OPERATIONS
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool

BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
KEYS = ("first-key", "second-key")


def ask(
    method: str, path: str, options: dict[str, Any] | None = None, pool: Any = None, **request: Any
) -> httpx.Response:
    """One request to the app, without sockets."""

    async def run() -> httpx.Response:
        given = FrontOptions(run_dir=Path("/nowhere"), **(options or {}))
        app = create_app(cast(Pool, pool or ScriptedPool(CARD)), given)
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://front", timeout=10) as client:
            return await client.request(method, path, **request)

    return asyncio.run(run())


def code(response: httpx.Response) -> str:
    """The error's code; fails where the body is not OpenAI's."""
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return str(error["code"])


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(key: str) -> None:
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"x-api-key": key},
        {"authorization": "Basic x", "x-api-key": key},
    ):
        assert ask("GET", "/v1/models", {"api_keys": KeyRing(KEYS)}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer ", "Basic first-key", "first-key", "Bearer first-key2", "Bearer ä"]
)
def test_anything_else_does_not(header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode()}
    response = ask("GET", "/v1/models", {"api_keys": KeyRing(KEYS)}, headers=headers)
    assert (response.status_code, code(response)) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "first-key" not in response.text


@pytest.mark.parametrize("key", ["", "wrong", "Bearer first-key", "first-key2"])
def test_nor_does_anything_else_in_anthropics_header(key: str) -> None:
    response = ask("POST", "/v1/messages", {"api_keys": KeyRing(KEYS)}, headers={"x-api-key": key})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"


def test_every_route_but_the_probes_needs_a_key() -> None:
    """A test holds OPERATIONS against the routes themselves. In between: other ways to write a path, and none."""
    open_to_all = ["/health", "/ready", "/version", "/openapi.json"]
    asked = [(one.method, re.sub(r"{\w+}", "x", one.path)) for one in OPERATIONS]
    odd = [
        "/v1/models/",
        "//v1/models",
        "/health/../v1/models",
        "/%68ealth",
        "/health/",
        "/HEALTH",
        "/docs",
        "/nowhere",
    ]
    asked += [(method, path) for path in odd for method in ("GET", "HEAD", "OPTIONS")]
    asked += [("HEAD", "/v1/models"), ("OPTIONS", "/v1/chat/completions"), ("PUT", "/v1/models"), ("TRACE", "/metrics")]

    async def run() -> None:
        options = FrontOptions(run_dir=Path("/nowhere"), api_keys=KeyRing(KEYS))
        app = create_app(cast(Pool, ScriptedPool(CARD)), options)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
            for method, path in asked:
                response = await client.request(method, path)
                wanted = path in open_to_all or path == "/%68ealth"  # the same, as HTTP has it
                assert (response.status_code != 401) == wanted, (method, path)
                if method != "HEAD" and not wanted:
                    assert "send one of the server's API keys" in response.text, path

    asyncio.run(run())


def test_request_ids_are_echoed_or_made() -> None:
    assert ask("GET", "/health", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    made = ask("GET", "/health").headers["x-request-id"]
    assert made.startswith("req_")
    assert ask("GET", "/health", headers={"x-request-id": "mine"}).headers["request-id"] == "mine"
    assert ask("GET", "/health").headers["x-request-id"] != made
    for bad in ("a" * 129, "with space", "ü"):
        assert ask("GET", "/health", headers={"x-request-id": bad.encode()}).headers["x-request-id"].startswith("req_")
    assert "x-request-id" in ask("GET", "/nowhere").headers
    assert "x-request-id" in ask("GET", "/v1/models", {"api_keys": KeyRing(KEYS)}).headers


def test_large_bodies_are_refused_announced_or_not() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    for content in (b"x" * 1001, chunks()):
        response = ask("POST", "/v1/chat/completions", {"max_body_bytes": 1000}, content=content)
        assert (response.status_code, code(response)) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/v1/models/none", 404)],
)
def test_the_routers_refusals_have_the_same_shape(method: str, path: str, status: int) -> None:
    response = ask(method, path)
    assert response.status_code == status
    assert code(response)


class _BrokenPool(ScriptedPool):
    def submit(self, request: Any, sink: Any) -> int:
        raise RuntimeError("secret detail")


@pytest.mark.parametrize("stream", [True, False])
def test_a_bug_is_a_500_without_its_details_and_with_cors(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    response = ask(
        "POST",
        "/v1/chat/completions",
        pool=_BrokenPool(CARD),
        json={**BODY, "stream": stream},
        headers={"origin": "http://a"},
    )
    assert (response.status_code, code(response)) == (500, "internal_error")
    assert "secret" not in response.text
    assert "secret detail" in caplog.text
    assert response.headers["access-control-allow-origin"] == "*"


def test_cors_answers_preflights_without_a_key_and_marks_refusals() -> None:
    asked = {
        "origin": "http://a",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    preflight = ask("OPTIONS", "/v1/chat/completions", {"api_keys": KeyRing(KEYS)}, headers=asked)
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    refused = ask("GET", "/v1/models", {"api_keys": KeyRing(KEYS)}, headers={"origin": "http://a"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "*"
    other = ask("GET", "/health", {"cors_origins": ("http://b",)}, headers={"origin": "http://a"})
    assert "access-control-allow-origin" not in other.headers


def test_a_key_may_have_so_many_requests_at_once() -> None:
    async def run() -> None:
        pool = ScriptedPool(CARD)
        options = FrontOptions(run_dir=Path("/nowhere"), api_keys=KeyRing(KEYS), max_requests_per_key=2)
        app = create_app(cast(Pool, pool), options)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:

            async def chat(key: str) -> httpx.Response:
                headers = {"authorization": f"Bearer {key}"}
                return await client.post("/v1/chat/completions", json=BODY, headers=headers)

            running = [asyncio.create_task(chat("first-key")) for _ in range(2)]
            async with asyncio.timeout(5):
                while len(pool.jobs) < 2:
                    await asyncio.sleep(0.001)
            refused = await chat("first-key")
            assert (refused.status_code, code(refused)) == (429, "too_many_requests")
            assert refused.headers["retry-after"] == "1"
            assert "2 requests" in refused.json()["error"]["message"]
            pool.play = lambda job: (job.run(), job.end())  # type: ignore[assignment, return-value]
            assert (await chat("second-key")).status_code == 200
            assert (await client.get("/health")).status_code == 200
            for job in pool.jobs[:2]:
                job.run()
                job.end()
            assert [(await one).status_code for one in running] == [200, 200]
            assert (await chat("first-key")).status_code == 200

    asyncio.run(run())


def test_no_key_is_kept_as_it_is() -> None:
    ring = KeyRing(["first-key"])
    assert "first-key" not in repr(vars(ring))
    assert ring.find({b"x-api-key": b"first-key"}) == 0
