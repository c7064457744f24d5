"""Large bodies: refused by name, without holding up a neighbour's stream, and without leaving memory behind."""

import asyncio
import json
import time
from typing import Any

import httpx
import psutil
import pytest
from front import CHAT, COMPLETIONS
from yard import Yard, wait_until

pytestmark = pytest.mark.slow

MODEL = "tokenyard-demo"
USER = {"role": "user", "content": "a"}
PART = {"type": "text", "text": "a"}
TOOL = {"type": "function", "function": {"name": "f"}}
LETTERS = 8_000_000
"""Nearly all that a body may have."""

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "many prompts": (COMPLETIONS, {"prompt": ["a"] * 1_600_000}, "prompt"),
    "many lists of ids": (COMPLETIONS, {"prompt": [[1]] * 1_500_000}, "prompt"),
    "many ids": (COMPLETIONS, {"prompt": [1000] * 1_500_000}, "prompt"),
    "many messages": (CHAT, {"messages": [{"role": "user"}] * 240_000}, "messages"),
    "many parts": (CHAT, {"messages": [{**USER, "content": [PART] * 240_000}]}, "messages.0.content"),
    "many tools": (CHAT, {"messages": [USER], "tools": [TOOL] * 60_000}, "tools"),
    "wide schema": (CHAT, {"messages": [USER], "guided_json": {"anyOf": [{}] * 1_500_000}}, "guided_json"),
    "wrong value": (CHAT, {"messages": [USER], "temperature": [0] * 3_000_000}, "temperature"),
    "long message": (CHAT, {"messages": [{**USER, "content": "a" * LETTERS}]}, "messages"),
    "numerals": (CHAT, {"messages": [{**USER, "content": "1+ " * (LETTERS // 3)}]}, "messages"),
    "conversation": (CHAT, {"messages": [{**USER, "content": "a" * 1800}] * 4096}, "messages"),
}  # fmt: skip
MAX_GAP_S = 1.0
"""0.15 s on two idle cores: parsing 8 MB of JSON holds the interpreter. Before counts were bounded: many seconds."""
MAX_RSS_BYTES = 200 << 20
"""What a front may take, by the project's own promise."""
GIVEN_BACK_S = 5.0
"""An idle front gives memory back within milliseconds; this bounds a busy machine."""


async def worst_gap_s(server: Yard, path: str, body: bytes) -> tuple[httpx.Response, float]:
    """The answer to a body, and a neighbour's longest wait for its next token meanwhile."""
    neighbour = {"model": MODEL, "stream": True, "max_tokens": 7000, "ignore_eos": True, "messages": [USER]}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        async with client.stream("POST", CHAT, json=neighbour) as stream:
            pieces = stream.aiter_raw()
            await anext(pieces)
            # In a thread: making the body's bytes travel must not delay this loop.
            asking = asyncio.create_task(asyncio.to_thread(httpx.post, server.url + path, content=body, timeout=60))
            worst, last = 0.0, time.monotonic()
            while not asking.done():
                await anext(pieces)
                worst, last = max(worst, time.monotonic() - last), time.monotonic()
        return await asking, worst


@pytest.mark.parametrize("case", REFUSED)
def test_a_large_refused_body_holds_up_nobody(server: Yard, case: str) -> None:
    path, fields, param = REFUSED[case]
    body = json.dumps({"model": MODEL, **fields}, separators=(",", ":")).encode()
    assert len(body) > 1_000_000
    response, gap_s = asyncio.run(worst_gap_s(server, path, body))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert gap_s < MAX_GAP_S
    front = psutil.Process(server.front.pid)  # it gives memory back once the answer is out
    wait_until(lambda: front.memory_info().rss < MAX_RSS_BYTES, f"{MAX_RSS_BYTES:,} bytes", GIVEN_BACK_S)
