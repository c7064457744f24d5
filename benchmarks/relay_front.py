"""The front process of the relay benchmark: the real one, which notes when batches come, or a plain one beside it.

    python benchmarks/relay_front.py ours|plain RUN_DIR FD FOLDER_OF_TIMES

*Plain* is what FastAPI's documentation shows: a StreamingResponse over an asyncio.Queue, and json.dumps. It is fed by
our own client of the pool, and detokenizes with the same library, so that only the way to the client differs.
"""

import os

os.environ["USE_TORCH"] = "0"  # as in the front's own process

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import relay_stamps
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from relay_words import tokenizer
from tokenizers.decoders import DecodeStream

from tokenyard.broker import logs
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.identity import Identity
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Delta, Finish, Tokens, TokensDown
from tokenyard.http import links, main
from tokenyard.http import pool as pool_module
from tokenyard.http.inbox import Inbox, Received
from tokenyard.http.options import FrontOptions
from tokenyard.http.pool import JobRequest, Pool
from tokenyard.http.streams import Action, Streams
from tokenyard.scripts.tie import tie_to_parent


def note_times(folder: Path) -> None:
    """Have the front's pool note when a batch is there and when it is told, and when a job is submitted: two times a
    batch, none a token.
    """

    class NotingInbox(Inbox):
        def __init__(self, front: Identity, worker: bytes, now: float) -> None:
            super().__init__(front, worker, now)
            self._notes = relay_stamps.came(folder, worker)

        def receive(self, message: TokensDown, now: float) -> Received:
            if isinstance(message, Tokens) and message.seq == self.expected:
                self._notes.note(message.seq)
            return super().receive(message, now)

    class NotingStreams(Streams):
        def __init__(self) -> None:
            super().__init__()
            self._notes = relay_stamps.submitted(folder)

        def submit(self, *arguments: Any) -> tuple[int, list[Action]]:
            self._notes.note(self._next_job)
            return super().submit(*arguments)

    class NotingPool(Pool):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._notes: dict[bytes, tuple[relay_stamps.Notes, Iterator[int]]] = {}

        def _tokens(self, worker: bytes, batches: list[list[Delta]]) -> None:
            super()._tokens(worker, batches)
            if worker not in self._notes:
                self._notes[worker] = relay_stamps.told(folder, worker), count()
            notes, numbers = self._notes[worker]
            for _ in batches:
                notes.note(next(numbers))

    vars(links)["Inbox"] = NotingInbox
    vars(pool_module)["Streams"] = NotingStreams
    vars(main)["Pool"] = NotingPool


class QueueSink:
    """One job's tokens into a queue."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[list[int], Finish | None]] = asyncio.Queue()

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        self.queue.put_nowait((token_ids, finish))

    def failed(self, error: TokenyardError) -> None:
        self.queue.put_nowait(([], Finish("error")))


def plain_app(run_dir: Path) -> FastAPI:
    """One route that streams as chat completions do."""
    pool = Pool(BrokerAddress.of(run_dir))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await pool.start()
        yield
        await pool.close()

    api = FastAPI(openapi_url=None, lifespan=lifespan)

    @api.get("/ready")
    async def ready() -> dict[str, int]:
        return {"workers": pool.num_workers}

    @api.post("/v1/chat/completions")
    async def chat(http: Request) -> StreamingResponse:
        body = await http.json()
        return StreamingResponse(answer(pool, body), media_type="text/event-stream")

    return api


async def answer(pool: Pool, body: dict[str, Any]) -> AsyncIterator[str]:
    """The events of one answer."""
    backend, sink = tokenizer(), QueueSink()
    job = JobRequest(body["model"], [5] * 8, Params(body["max_tokens"], seed=body["seed"]))
    number = pool.submit(job, sink)
    decoder = DecodeStream(ids=[], skip_special_tokens=True)
    head = {
        "id": "chatcmpl-plain",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": body["model"],
    }

    def event(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return f"data: {json.dumps({**head, 'choices': [choice], 'usage': None})}\n\n"

    num_tokens = 0
    try:
        yield event({"role": "assistant", "content": ""})
        while True:
            token_ids, finish = await sink.queue.get()
            num_tokens += len(token_ids)
            if text := "".join(decoder.step(backend, token_id) or "" for token_id in token_ids):
                yield event({"content": text})
            if finish is not None:
                yield event({}, finish.reason)
                usage = {"prompt_tokens": 8, "completion_tokens": num_tokens, "total_tokens": 8 + num_tokens}
                yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
                yield "data: [DONE]\n\n"
                return
    finally:
        pool.cancel(number)


def run_plain(run_dir: Path, fd: int) -> None:
    logs.setup("plain front", "INFO")
    config = uvicorn.Config(
        plain_app(run_dir), loop="uvloop", http="httptools", lifespan="on", log_config=None, access_log=False
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    tie_to_parent()
    kind, own_run_dir, own_fd = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    note_times(Path(sys.argv[4]))
    if kind == "ours":
        main.run(FrontOptions(run_dir=own_run_dir, fd=own_fd, store="off"))
    else:
        run_plain(own_run_dir, own_fd)
