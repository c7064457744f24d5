"""Many streams at once, and clients that leave."""

import asyncio
import json
import socket
import time
from itertools import pairwise

import httpx
import pytest
from leaver import check_leaving
from sse import stream
from yard import Yard, wait_until

from tokenyard.broker.config import PAUSE_S
from tokenyard.http.replies import MAX_LAG_BYTES

pytestmark = pytest.mark.slow

MAX_STALL_S = 0.5
"""A few steps of 20 to 100 ms, on two cores that others use, too."""


def test_32_concurrent_streams_all_finish(server: Yard) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(
            base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=32)
        ) as client:
            replies = await asyncio.gather(
                *(
                    stream(
                        client,
                        {
                            "model": "tokenyard-demo",
                            "messages": [{"role": "user", "content": f"Count from 1 to {10 + index % 4}."}],
                            "max_tokens": 40 + index,
                            "ignore_eos": True,
                            "temperature": 0,
                        },
                    )
                    for index in range(32)
                )
            )
        for index, reply in enumerate(replies):
            assert reply.finish_reason == "length"
            assert reply.usage is not None
            assert reply.usage["completion_tokens"] == 40 + index
            assert reply.text.startswith("1, 2, 3")

    asyncio.run(run())


def test_a_client_that_leaves_frees_its_worker(server: Yard) -> None:
    check_leaving(server, "tokenyard-demo", max_tokens=1900)


def test_a_client_that_does_not_read_has_its_sequences_paused(server: Yard) -> None:
    """Its answer is larger than what is kept for it: without a pause it would be cut off."""
    num_choices, num_tokens = 8, 500
    body = {
        "model": "tokenyard-demo",
        "messages": [{"role": "user", "content": "Count from 1 to 60."}],
        "n": num_choices,
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 20,
        "stream": True,
    }
    content = json.dumps(body).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json"
        client.sendall(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)

        def figures() -> tuple[int, int, int]:
            loads = [worker["load"] for worker in server.status()["workers"]]
            return tuple(sum(load.get(key, 0) for load in loads) for key in ("running", "waiting", "emitted_tokens"))  # type: ignore[return-value]

        wait_until(lambda: figures()[:2] == (0, num_choices), "its sequences to be paused", 30)
        before = figures()
        time.sleep(PAUSE_S + 0.5)
        assert figures() == before, "the pause is told again, as long as it lasts"
        reply = httpx.post(f"{server.url}/v1/chat/completions", json={**body, "stream": False, "n": 1}, timeout=30)
        assert reply.json()["usage"]["completion_tokens"] == num_tokens, "others do not wait"
        client.settimeout(30)
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert len(answer) > 1.5 * MAX_LAG_BYTES
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert answer.count(b'"token":') == num_choices * num_tokens * 21


def test_a_long_prompt_does_not_stall_running_streams(server: Yard) -> None:
    counting = {
        "model": "tokenyard-demo",
        "messages": [{"role": "user", "content": "Count from 1 to 60."}],
        "max_tokens": 3000,
        "ignore_eos": True,
    }
    long_prompt = {"model": "tokenyard-demo", "prompt": [5] * 7000, "max_tokens": 1}

    async def run() -> None:
        times: list[list[float]] = [[] for _ in range(4)]
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            streams = [
                asyncio.create_task(
                    stream(client, counting, lambda count, index=index: times[index].append(time.monotonic()))  # type: ignore[misc]
                )
                for index in range(len(times))
            ]
            while any(len(events) < 20 for events in times):
                assert not any(task.done() for task in streams)
                await asyncio.sleep(0.01)
            began = time.monotonic()
            answer = await client.post("/v1/completions", json=long_prompt)
            ended = time.monotonic()
            assert answer.status_code == 200, answer.text
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
        for events in times:
            during = [began, *(moment for moment in events if began < moment < ended)]
            gaps = [after - before for before, after in pairwise(during)]
            assert len(gaps) > 5, f"{len(gaps)} tokens in the {ended - began:.2f} s of the prefill"
            assert max(gaps) < max(MAX_STALL_S, (ended - began) / 4)

    asyncio.run(run())
