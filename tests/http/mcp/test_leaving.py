"""A client that goes away in the middle of a server-side call: the call and the generation end with it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from front import request
from mcp_front import MODEL, as_entry, calls, mcp_front

pytestmark = pytest.mark.slow

HANDED_ON_S = 10.0
"""Far below the 60 s that the tool takes."""


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_call(tmp_path: Path, stream: bool) -> None:
    body = {
        "model": MODEL,
        "stream": stream,
        "messages": [{"role": "user", "content": "Wait."}],
        "tools": [{"type": "mcp", "server_label": "trial"}],
    }

    async def work() -> None:
        turn = calls(("trial__slow", {"seconds": 60}))
        async with mcp_front(tmp_path, {"trial": as_entry(default=False)}, turn, "Done.") as front:

            async def num_calls() -> int:
                states = (await request(front.app, "GET", "/v1/mcp/servers")).json()["data"]
                return int(states[0]["num_calls"])

            leaves = asyncio.Event()
            given = [{"type": "http.request", "body": json.dumps(body).encode()}]

            async def receive() -> Any:
                if given:
                    return given.pop()
                await leaves.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                pass

            scope: Any = {
                "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b"",
            }  # fmt: skip
            exchange = asyncio.create_task(front.app(scope, receive, send))
            async with asyncio.timeout(30):
                while not await num_calls():
                    await asyncio.sleep(0.01)
            calling = [task for task in asyncio.all_tasks() if task.get_name() == "mcp trial call"]
            assert len(calling) == 1
            leaves.set()
            async with asyncio.timeout(HANDED_ON_S):
                await exchange
                await asyncio.wait(calling)
            assert calling[0].cancelled()
            assert len(front.pool.jobs) == 1, "no second turn"

    asyncio.run(work())
