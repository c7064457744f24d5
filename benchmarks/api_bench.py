"""What the API layer costs a request: from its bytes to a job, and from the job's tokens to the answer's bytes.

    python benchmarks/api_bench.py      each API with a prompt of 200 tokens, beside a route that returns a constant

The whole application runs in this process, on one core, over a pool that answers at once; it is called as uvicorn calls
it. So there is no model, no socket and no client in the figures. Knows nothing of how answers are made.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, NamedTuple, cast

os.environ["USE_TORCH"] = "0"  # as in the front's own process, which has no torch

import orjson
import typer
from fastapi import FastAPI, Request
from machine import load_average, machine, today, versions
from starlette.types import ASGIApp, Message
from tables import Cells, markdown, number

from tokenyard.broker import wire
from tokenyard.broker.wire import Card, Finish
from tokenyard.http.app import create_app
from tokenyard.http.cork import Cork
from tokenyard.http.figures import Figures
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import JobRequest, JobSink, Pool

MODEL = "demo"
CARD = Card(
    names=[MODEL],
    source=str(Path(wire.__file__).parents[1] / "workers" / "demo_model"),
    commit="",
    context_length=2048,
    pool_tokens=4096,
    block_size=16,
    lane="paged",
    dtype="float32",
    device="cpu",
    vocab_size=2048,
    eos_token_ids=[2039],
)
TEXT = "Once upon a time there was a small town by the sea, and in it a friend of everybody, who asked: what is seven?"
NUM_WORDS = 98
"""Of the text, over and over: with its template, a prompt of some 200 tokens."""
SAID = list(range(300, 332))
"""Token ids of the answer, whose text is words."""
HEAD = ["request", "p50", "p99", "CPU p50", "p50 above the plain route"]
TARGET_MS = 2.0
"""The p50 that no API is to exceed (issue 4)."""
PLAIN = "a route that returns a constant"


class InstantPool:
    """Stands where the front's client of the pool does: each job says the same at once, a token at a time."""

    connected = ready = True
    num_workers = 1
    on_card: Callable[[Card], None] | None = None
    prompt_tokens = 0
    """Of the last job."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.cork = Cork()

    async def start(self) -> None:
        if self.on_card is not None:
            self.on_card(CARD)

    async def wait_welcomed(self, seconds: float) -> None:
        pass

    async def close(self) -> None:
        pass

    def cards(self) -> list[Card]:
        return [CARD]

    def is_up(self, model: str) -> bool:
        return model == MODEL

    def find(self, name: str) -> Card | None:
        return CARD if name == MODEL else None

    def submit(self, request: JobRequest, sink: JobSink) -> int:
        self.prompt_tokens = len(request.prompt_ids)
        asyncio.get_running_loop().call_soon(self._say, sink)
        return 0

    def cancel(self, job: int) -> None:
        pass

    def _say(self, sink: JobSink) -> None:
        sink.delta([], {"cached_tokens": 0}, None)
        for token_id in SAID:
            sink.delta([token_id], {}, None)
        sink.delta([CARD.eos_token_ids[0]], {}, Finish("stop"))


def plain_app() -> ASGIApp:
    """FastAPI's own cost: a body read and parsed, and a constant answered."""
    api = FastAPI(openapi_url=None)

    @api.post("/plain")
    async def plain(http: Request) -> dict[str, Any]:
        await http.json()
        return {"status": "ok"}

    return api


def bodies(number: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Each request to measure: path and body. No two texts are alike, so that nothing is found in a cache whole."""
    words = f"{number} {TEXT} ".split() * 8
    text = " ".join(words[:NUM_WORDS])
    messages = [{"role": "user", "content": text}]
    common: dict[str, Any] = {"model": MODEL, "temperature": 0.7}
    chat = {**common, "messages": messages}
    response = {**common, "input": text}
    return {
        PLAIN: ("/plain", chat),
        "chat completion": ("/v1/chat/completions", chat),
        "chat completion, streamed": ("/v1/chat/completions", {**chat, "stream": True}),
        "completion": ("/v1/completions", {**common, "prompt": text}),
        "response, not kept": ("/v1/responses", {**response, "store": False}),
        "response": ("/v1/responses", response),
        "response, streamed": ("/v1/responses", {**response, "stream": True}),
        "Anthropic's message": ("/v1/messages", {**chat, "max_tokens": 100}),
        "Anthropic's message, streamed": ("/v1/messages", {**chat, "max_tokens": 100, "stream": True}),
    }


class Took(NamedTuple):
    """One exchange: from a request's bytes to the last of its answer's."""

    ms: float
    cpu_ms: float
    """Of the process, whose store writes in a thread: what is left on a machine that others use as well."""


async def call(app: ASGIApp, path: str, body: bytes) -> Took:
    """Fails where what comes is no answer."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    gone: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    statuses: list[int] = []

    async def receive() -> Message:
        return left.pop() if left else await gone

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    scope |= {"http_version": "1.1", "scheme": "http", "raw_path": path.encode(), "root_path": ""}
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await app(scope, receive, send)
    took = Took((time.perf_counter() - began_s) * 1000, (time.process_time() - began_cpu_s) * 1000)
    assert statuses == [200], f"{path} answered {statuses}"
    return took


async def measure(num_requests: int, folder: Path) -> tuple[dict[str, list[Took]], int]:
    """Times of each request, in turn, and the tokens of a chat's prompt."""
    pool = InstantPool()
    options = FrontOptions(run_dir=folder)
    app, plain = create_app(cast(Pool, pool), options), plain_app()
    async with _lifespan(app):
        times: dict[str, list[Took]] = {}
        num_tokens = 0
        for number in range(-num_requests // 10, num_requests):
            for name, (path, body) in bodies(abs(number)).items():
                took = await call(plain if name == PLAIN else app, path, orjson.dumps(body))
                if number >= 0:  # those before warm up
                    times.setdefault(name, []).append(took)
                if name == "chat completion":
                    num_tokens = pool.prompt_tokens
    return times, num_tokens


def _lifespan(app: ASGIApp) -> Any:
    inner: Any = app
    while not isinstance(inner, FastAPI):
        inner = getattr(inner, "app", None) or inner._app
    return inner.router.lifespan_context(inner)


def cells(times: dict[str, list[Took]]) -> Cells:
    base = median(one.ms for one in times[PLAIN])
    rows: Cells = []
    for name, own in times.items():
        elapsed = [one.ms for one in own]
        p50, p99, cpu = median(elapsed), quantiles(elapsed, n=100)[98], median(one.cpu_ms for one in own)
        above = "" if name == PLAIN else f"{number(p50 - base)} ms"
        rows.append([name, f"{number(p50)} ms", f"{number(p99)} ms", f"{number(cpu)} ms", above])
    return rows


def main(
    requests: Annotated[int, typer.Option(min=10, help="Of each kind, after a tenth as many to warm up.")] = 1000,
) -> None:
    """Measure each API in turn, many times, and print a table as Markdown."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        times, num_tokens = asyncio.run(measure(requests, Path(folder)))
    typer.echo(f"{today()}, {machine('cpu')}, one of them used, load average {load_average()}, {versions()}\n")
    typer.echo(f"Prompts of {num_tokens} tokens, answers of {len(SAID)}; {requests} requests of each kind, in turn.\n")
    typer.echo(markdown(HEAD, cells(times)))
    slow = [name for name, own in times.items() if median(one.ms for one in own) > TARGET_MS]
    typer.echo(f"\nAbove {number(TARGET_MS)} ms at the median: {', '.join(slow) or 'none'}.")


if __name__ == "__main__":
    typer.run(main)
