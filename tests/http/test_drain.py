"""A front that is told to end: it says so, lets streams finish up to its time, and cuts the others with an error."""

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sse import Reply, stream
from yard import Yard, wait_until

from tokenyard.http.drain import Drain

LONG = {
    "model": "tokenyard-demo",
    "messages": [{"role": "user", "content": "Count from 1 to 60."}],
    "max_tokens": 300,
    "ignore_eos": True,
    "temperature": 0,
}
ENDLESS = 7000
"""Tokens: more than any drain of these tests waits for."""
DRAIN_S = 4
APART_S = 0.1
"""Two signals of a kind that wait to be handled are one (signal(7))."""


def test_a_drain_is_over_when_nothing_runs_and_others_had_notice() -> None:
    drain = Drain(30)
    assert not drain.is_over(100)
    assert drain.left_s(100) == 30
    drain.begin(100, notice_s=1)
    drain.begin(105)  # it has begun
    assert not drain.is_over(100.5)
    assert drain.is_over(101)
    drain.num_running = 1
    assert not drain.is_over(129)
    assert drain.is_over(130)
    drain.num_running = 0
    running = [1]
    drain.background.append(lambda: len(running))
    assert not drain.is_over(110), "what nobody waits for runs, too"
    running.clear()
    assert drain.is_over(110)


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    yard = Yard(front_arguments=["--drain-timeout", str(DRAIN_S)])
    yield yard
    yard.close()


@pytest.fixture
def front(yard: Yard) -> Yard:
    """The yard with a front that lives."""
    if yard.pool().get("status") != "ready":
        yard.front.kill()
        yard.front.wait()
        yard.front = yard.start("front", "--port", str(yard.port), "--drain-timeout", str(DRAIN_S))
        yard.wait_workers(1)
    return yard


async def stream_and_signal(yard: Yard, signals: list[signal.Signals]) -> Reply:
    """Stream; when some events have come, send the signals, a moment apart."""
    left = list(signals)
    next_s = 0.0

    def on_event(num_events: int) -> None:
        nonlocal next_s
        if left and num_events >= 5 and time.monotonic() >= next_s:
            yard.front.send_signal(left.pop(0))
            next_s = time.monotonic() + APART_S

    async with httpx.AsyncClient(base_url=yard.url, timeout=60) as client:
        return await stream(client, LONG, on_event)


def check_refusals(yard: Yard) -> None:
    """New connections hear that it drains, each in the words of its API; only probes are served."""
    wait_until(lambda: httpx.get(f"{yard.url}/ready").json().get("status") == "draining", "the drain", 20)
    ready = httpx.get(f"{yard.url}/ready")
    assert ready.status_code == 503
    assert ready.json()["error"]["code"] == "shutting_down"
    assert httpx.get(f"{yard.url}/health").status_code == 200
    answer = httpx.post(f"{yard.url}/v1/chat/completions", json=LONG)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["connection"] == "close"
    assert "shutting down" in answer.json()["error"]["message"]
    anthropic = httpx.post(f"{yard.url}/v1/messages", json={})
    assert (anthropic.status_code, anthropic.json()["type"]) == (503, "error")


@pytest.mark.slow
def test_sigterm_lets_a_stream_finish_and_takes_no_more(front: Yard) -> None:
    async def run() -> Reply:
        task = asyncio.create_task(stream_and_signal(front, [signal.SIGTERM]))
        await asyncio.to_thread(check_refusals, front)
        assert not task.done(), "it still runs"
        return await task

    reply = asyncio.run(run())
    assert reply.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage["completion_tokens"] == 300
    assert front.front.wait(timeout=20) == 0


async def last_event(yard: Yard, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any], float]:
    """Of a stream: its name, its data, and when it came."""
    last: tuple[str, dict[str, Any], float] = "", {}, 0.0
    name = ""
    async with (
        httpx.AsyncClient(base_url=yard.url, timeout=60) as client,
        client.stream("POST", path, json={"model": "tokenyard-demo", "stream": True, **body}) as response,
    ):
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: {"):
                last, name = (name, json.loads(line.removeprefix("data: ")), time.monotonic()), ""
    return last


@pytest.mark.slow
def test_a_stream_whose_time_is_up_ends_with_an_error_event(front: Yard) -> None:
    say = {"messages": LONG["messages"], "ignore_eos": True}
    streams: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {**say, "max_tokens": ENDLESS}),
        ("/v1/completions", {"prompt": "Once", "ignore_eos": True, "max_tokens": ENDLESS}),
        ("/v1/messages", {**say, "max_tokens": ENDLESS}),
        ("/v1/responses", {"input": "Count.", "ignore_eos": True, "max_output_tokens": ENDLESS}),
    ]

    async def run() -> tuple[float, list[tuple[str, dict[str, Any], float]]]:
        tasks = [asyncio.create_task(last_event(front, path, body)) for path, body in streams]
        running = {"running": 0}

        def all_run() -> bool:
            running["running"] = front.status()["workers"][0]["running"]
            return running["running"] == len(streams)

        await asyncio.to_thread(wait_until, all_run, "all streams to run")
        front.front.send_signal(signal.SIGTERM)
        return time.monotonic(), await asyncio.gather(*tasks)

    told_s, lasts = asyncio.run(run())
    (_, chat, ended_s), (_, completion, _), (named, message, _), (response_name, response, _) = lasts
    assert DRAIN_S - 0.5 < ended_s - told_s < DRAIN_S + 5
    assert chat["error"]["code"] == completion["error"]["code"] == "shutting_down"
    assert named == message["type"] == "error"
    assert "shutting down" in message["error"]["message"]
    assert response_name == response["type"] == "response.failed"
    assert "shutting down" in response["response"]["error"]["message"]
    assert front.front.wait(timeout=20) == 0
    log = front.log()
    assert f"WARNING {len(streams)} requests are cut" in log
    assert len(re.findall(" 200 request_id=.* finish=shutting_down$", log, re.MULTILINE)) == len(streams)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]])
def test_a_second_sigterm_or_sigint_ends_at_once(front: Yard, signals: list[signal.Signals]) -> None:
    with pytest.raises((httpx.TransportError, AssertionError)):
        asyncio.run(stream_and_signal(front, signals))
    assert front.front.wait(timeout=10) == 0
