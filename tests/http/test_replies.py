"""Replies on their way: written within the callback, complete for slow clients, ended for those that went."""

import asyncio
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from models import CARD, demo_tokenizer
from scripted import Job, ScriptedPool
from starlette.types import Message

from tokenyard.broker.errors import TokenyardError
from tokenyard.http.chat import ChatFormat, plan_chat
from tokenyard.http.generation import Generation, Listener
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import Pool
from tokenyard.http.prompt import Prompter
from tokenyard.http.replies import EventStream, WholeReply
from tokenyard.http.schemas import parse_chat

PATIENT = FrontOptions(run_dir=Path("/nowhere"))
BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


class Client:
    """The far end of an ASGI exchange; `reads` cleared is a client whose socket buffer is full."""

    def __init__(self) -> None:
        self.status = 0
        self.bodies: list[bytes] = []
        self.complete = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = asyncio.Event()

    async def send(self, message: Message) -> None:
        # As uvicorn: wait first, then write.
        await self.reads.wait() if not self.reads.is_set() else None
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.bodies.append(message["body"])
        self.complete = not message.get("more_body")

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def events(self) -> list[Any]:
        """The data of every event so far; comments as they are."""
        lines = [line for line in b"".join(self.bodies).decode().split("\n\n") if line]
        return [json.loads(line[6:]) if line.startswith("data: {") else line for line in lines]

    @property
    def text(self) -> str:
        """All choices' text."""
        chunks = [event for event in self.events if isinstance(event, dict) and "choices" in event]
        return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


class Exchange:
    """One chat request, from its plans on."""

    def __init__(self, options: FrontOptions = PATIENT, **fields: Any) -> None:
        self.pool = ScriptedPool(CARD)
        self.client = Client()
        self.options = options
        self.fields = {"stream": True, **fields}

    async def start(self) -> None:
        request = parse_chat({**BODY, **self.fields})
        prompter = Prompter(CARD, demo_tokenizer())
        plans, parsers = await plan_chat(request, prompter)
        generation = Generation(cast(Pool, self.pool), plans)
        form = ChatFormat(request, prompter, generation, parsers)
        reply = (
            EventStream(generation, form, self.options, self.pool.cork)
            if request.stream
            else WholeReply(generation, form)
        )
        self.task = asyncio.create_task(reply({"type": "http"}, self.client.receive, self.client.send))
        await until(lambda: self.pool.jobs)

    async def open(self) -> Job:
        """Start, and let the first job run."""
        await self.start()
        self.pool.jobs[0].run()
        await until(lambda: self.client.bodies)
        return self.pool.jobs[0]

    async def over(self) -> None:
        async with asyncio.timeout(5):
            await self.task


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_chunk_is_written_before_the_callback_returns() -> None:
    async def run() -> None:
        exchange = Exchange()
        job = await exchange.open()
        for word in ("one", " two", " three"):
            job.say(word)
            assert exchange.client.text.endswith(word)
        job.end()
        await exchange.over()
        assert exchange.client.text == "one two three"
        assert exchange.client.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert exchange.client.events[-2]["choices"][0]["finish_reason"] == "stop"
        assert exchange.client.events[-1] == "data: [DONE]"
        assert exchange.client.complete

    asyncio.run(run())


def test_what_is_told_under_the_cork_is_one_write() -> None:
    async def run() -> None:
        exchange = Exchange(n=2)
        first = await exchange.open()
        second = exchange.pool.jobs[1]
        before = len(exchange.client.bodies)
        with exchange.pool.cork:
            first.say("one")
            second.say(" two")
            first.say(" three")
            assert len(exchange.client.bodies) == before
        assert len(exchange.client.bodies) == before + 1
        assert exchange.client.text == "one two three"
        first.say(" four")
        assert exchange.client.text == "one two three four"
        with exchange.pool.cork:
            first.end()
            second.say(" five")
            second.end()
        await exchange.over()
        assert exchange.client.text == "one two three four five"
        assert exchange.client.events[-1] == "data: [DONE]"
        assert exchange.client.complete

    asyncio.run(run())


@pytest.mark.parametrize("lags", [False, True])
def test_the_cork_changes_no_byte(lags: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenyard.http.plans.secrets.token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr("tokenyard.http.plans.time.time", lambda: 0)

    async def body(corked: bool) -> bytes:
        exchange = Exchange(n=2, stream_options={"include_usage": True})
        await exchange.start()
        if lags:
            exchange.client.reads.clear()
        jobs = exchange.pool.jobs
        acts = [job.run for job in jobs]
        acts += [partial(job.say, word) for word in ("one", " zwölf 🤖", ' "') for job in jobs]
        acts += [job.end for job in jobs]
        for cut in (slice(0, 1), slice(1, 4), slice(4, None)):
            with exchange.pool.cork if corked else nullcontext():
                for act in acts[cut]:
                    act()
            await asyncio.sleep(0.01)
        exchange.client.reads.set()
        await exchange.over()
        assert exchange.client.complete
        return b"".join(exchange.client.bodies)

    assert asyncio.run(body(True)) == asyncio.run(body(False))


def test_what_the_cork_kept_for_a_client_that_is_cut_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenyard.http.replies.MAX_LAG_BYTES", 4000)

    async def run() -> None:
        exchange = Exchange()
        job = await exchange.open()
        before = len(exchange.client.bodies)
        with exchange.pool.cork:
            for _ in range(40):
                job.say("word")
        await exchange.over()
        assert job.cancelled
        assert len(exchange.client.bodies) == before
        assert not exchange.client.complete

    asyncio.run(run())


def test_a_client_that_lags_gets_everything_in_few_writes() -> None:
    async def run() -> None:
        exchange = Exchange()
        job = await exchange.open()
        exchange.client.reads.clear()
        for number in range(100):
            job.say(f"{number} ")
        job.end()
        await asyncio.sleep(0)
        before = len(exchange.client.bodies)
        exchange.client.reads.set()
        await exchange.over()
        assert exchange.client.text == "".join(f"{number} " for number in range(100))
        # The suspended write, one for all that gathered, and the end.
        assert len(exchange.client.bodies) - before <= 3
        assert exchange.client.complete

    asyncio.run(run())


def test_a_client_that_lags_far_has_its_sequences_paused_until_it_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenyard.http.replies.PAUSE_LAG_BYTES", 4000)

    async def run() -> None:
        exchange = Exchange(n=2)
        job = await exchange.open()
        with exchange.pool.cork:
            for _ in range(40):
                job.say("word ")
        assert not job.paused, "it reads"
        for _ in range(2):
            exchange.client.reads.clear()
            job.say("word ")
            assert not job.paused
            for _ in range(40):
                job.say("word ")
            assert all(job.paused for job in exchange.pool.jobs)
            exchange.client.reads.set()
            await until(lambda: not any(job.paused for job in exchange.pool.jobs))
        for job in exchange.pool.jobs:
            job.end()
        await exchange.over()
        assert exchange.client.text == "word " * (40 + 2 * 41)
        assert exchange.client.complete

    asyncio.run(run())


def test_a_job_that_begins_in_a_pause_is_paused() -> None:
    async def run() -> None:
        pool = ScriptedPool(CARD)
        plans, _ = await plan_chat(parse_chat({**BODY, "n": 2}), Prompter(CARD, demo_tokenizer()))
        generation = Generation(cast(Pool, pool), plans, width=1)
        generation.start(cast(Listener, Mock()))
        generation.pause(on=True)
        pool.jobs[0].end()
        assert pool.jobs[1].paused
        generation.pause(on=False)
        assert not pool.jobs[1].paused

    asyncio.run(run())


def test_a_client_that_stops_reading_is_cut_and_its_jobs_cancelled() -> None:
    async def run() -> None:
        exchange = Exchange(FrontOptions(run_dir=Path("/nowhere"), stall_s=0.05), n=2)
        job = await exchange.open()
        exchange.client.reads.clear()
        job.say("never read")
        await exchange.over()
        assert all(job.cancelled for job in exchange.pool.jobs)
        assert not exchange.client.complete

    asyncio.run(run())


def test_what_is_kept_for_a_client_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenyard.http.replies.MAX_LAG_BYTES", 4000)

    async def run() -> None:
        exchange = Exchange()
        job = await exchange.open()
        exchange.client.reads.clear()
        for _ in range(40):
            job.say("word")
        await exchange.over()
        assert job.cancelled

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_first_token_is_raised_for_the_status(stream: bool) -> None:
    async def run() -> None:
        exchange = Exchange(stream=stream, n=2)
        await exchange.start()
        exchange.pool.jobs[0].fail("queue_full")
        with pytest.raises(TokenyardError, match="scripted"):
            await exchange.over()
        assert exchange.client.status == 0
        assert exchange.pool.jobs[1].cancelled

    asyncio.run(run())


def test_a_failure_in_mid_stream_is_an_event() -> None:
    async def run() -> None:
        exchange = Exchange()
        job = await exchange.open()
        job.say("half")
        job.fail("job_crashes_workers")
        await exchange.over()
        assert exchange.client.text == "half"
        assert exchange.client.events[-2]["error"]["code"] == "job_crashes_workers"
        assert exchange.client.events[-1] == "data: [DONE]"

    asyncio.run(run())


def test_a_long_wait_opens_the_stream_and_later_failures_are_events() -> None:
    async def run() -> None:
        exchange = Exchange(FrontOptions(run_dir=Path("/nowhere"), header_wait_s=0.01))
        await exchange.start()
        await until(lambda: exchange.client.bodies)
        assert (exchange.client.status, exchange.client.events) == (200, [": keep-alive"])
        exchange.pool.jobs[0].fail("deadline_exceeded")
        await exchange.over()
        assert exchange.client.events[1]["error"]["code"] == "deadline_exceeded"

    asyncio.run(run())


def test_silence_is_filled_with_comments() -> None:
    async def run() -> None:
        exchange = Exchange(FrontOptions(run_dir=Path("/nowhere"), keep_alive_s=0.01))
        job = await exchange.open()
        await until(lambda: exchange.client.events.count(": keep-alive") >= 2)
        job.end()
        await exchange.over()
        assert exchange.client.events[-1] == "data: [DONE]"

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_a_client_that_goes_cancels_its_jobs(stream: bool, running: bool) -> None:
    async def run() -> None:
        exchange = Exchange(stream=stream, n=3)
        await exchange.start()
        if running:
            exchange.pool.jobs[0].run()
            exchange.pool.jobs[0].say("x")
        exchange.client.gone.set()
        await exchange.over()
        assert all(job.cancelled for job in exchange.pool.jobs)
        assert not exchange.client.complete

    asyncio.run(run())


def test_a_stop_string_cancels_its_job_and_no_other() -> None:
    async def run() -> None:
        exchange = Exchange(stop="END", n=2)
        first = await exchange.open()
        first.say("text END more")
        assert first.cancelled
        assert not exchange.pool.jobs[1].cancelled
        exchange.pool.jobs[1].end("length")
        await exchange.over()
        reasons = {
            choice["index"]: choice["finish_reason"]
            for event in exchange.client.events[:-1]
            for choice in event["choices"]
            if choice["finish_reason"]
        }
        assert reasons == {0: "stop", 1: "length"}
        assert exchange.client.text == "text "

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
def test_the_end_of_draining_is_said(stream: bool) -> None:
    async def run() -> None:
        exchange = Exchange(stream=stream)
        await exchange.start()
        exchange.task.cancel()
        with pytest.raises(TokenyardError, match="shutting down"):
            await exchange.over()
        if stream:
            exchange = Exchange()
            await exchange.open()
            exchange.task.cancel()
            await exchange.over()
            assert exchange.client.events[-2]["error"]["code"] == "shutting_down"
            assert exchange.client.complete
        assert exchange.pool.jobs[0].cancelled

    asyncio.run(run())


def test_a_bug_ends_its_own_request_only() -> None:
    async def run() -> None:
        exchange = Exchange(logprobs=True)
        job = await exchange.open()
        job.say("x", logprobs=["not what a worker sends"])
        await exchange.over()
        assert exchange.client.events[-2]["error"]["code"] == "worker_error"
        assert job.cancelled

    asyncio.run(run())


def test_whole_replies_gather_every_choice() -> None:
    async def run() -> None:
        exchange = Exchange(stream=False, n=2)
        await exchange.start()
        for job, text in zip(exchange.pool.jobs, ("one", "two"), strict=True):
            job.say(text)
            job.end()
        await exchange.over()
        body = json.loads(b"".join(exchange.client.bodies))
        assert [choice["message"]["content"] for choice in body["choices"]] == ["one", "two"]
        num_prompt = len(exchange.pool.jobs[0].request.prompt_ids)
        assert body["usage"]["prompt_tokens"] == num_prompt
        assert body["usage"]["total_tokens"] == num_prompt + body["usage"]["completion_tokens"]

    asyncio.run(run())
