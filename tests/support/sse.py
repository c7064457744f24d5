"""A plain SSE client for tests that must see each event as it comes."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx


class Reply(NamedTuple):
    """One stream, whole."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any] | None
    num_events: int


async def stream(
    client: httpx.AsyncClient, body: dict[str, Any], on_event: Callable[[int], None] = lambda _: None
) -> Reply:
    """POST a streaming chat completion and read it to its `[DONE]`; `on_event` hears how many events came so far."""
    text, finish_reason, usage, num_events = "", None, None, 0
    request = {"stream": True, "stream_options": {"include_usage": True}, **body}
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:
        if response.status_code != 200:
            raise AssertionError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return Reply(text, finish_reason, usage, num_events)
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                finish_reason = choice["finish_reason"] or finish_reason
            usage = event.get("usage") or usage
            num_events += 1
            on_event(num_events)
    raise AssertionError("the stream ended without [DONE]")
