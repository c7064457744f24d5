"""A broker and workers that are moved by hand, over the real sockets: what a front says and hears on the wire."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import zmq
import zmq.asyncio
from models import CARD, demo_tokenizer

from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import RunDir
from tokenyard.broker.identity import prover_of
from tokenyard.broker.wire import (
    Ack,
    Card,
    Delta,
    Finish,
    FrontHello,
    Message,
    Ping,
    Placed,
    Resume,
    Submit,
    Welcome,
    Who,
    WorkerDown,
    WorkerInfo,
    WorkerUp,
)
from tokenyard.workers.link import SendLink

WAIT_S = 10.0
"""Bound on anything that takes a front milliseconds."""

M = TypeVar("M")


class ScriptedWorker:
    """Says one text for each job, a token at a time."""

    def __init__(self, context: zmq.asyncio.Context, run_dir: RunDir, card: Card, inc: bytes, text: str) -> None:
        self.info = WorkerInfo(inc, run_dir.tokens_endpoint(inc), card)
        self._ids = [*demo_tokenizer().backend.encode(text, add_special_tokens=False).ids, CARD.eos_token_ids[0]]
        self._link = SendLink(inc, 0.0)
        self._front = b""
        self._socket = context.socket(zmq.XPUB)
        self._socket.linger = 0
        self._socket.bind(self.info.endpoint)
        self._reading = asyncio.create_task(self._read())

    async def run(self, submit: Submit) -> None:
        """Answer a job."""
        last = len(self._ids) - 1
        deltas = [Delta(submit.job, submit.attempt, 0, [], {"cached_tokens": 0})]
        deltas += [
            Delta(submit.job, submit.attempt, index, [token_id], {}, Finish("stop") if index == last else None)
            for index, token_id in enumerate(self._ids)
        ]
        await self._send(self._link.push(deltas, 0.0))

    async def _read(self) -> None:
        while True:
            frame = await self._socket.recv()
            if frame[:1] == b"\x01":
                if (front := prover_of(frame[1:])) is None:
                    continue
                self._front = front
                await self._send(self._link.subscribe(0.0))
            elif frame[:1] != b"\x00":
                message = decode(frame)
                if isinstance(message, Resume):
                    await self._send(self._link.resume(message.from_seq, 0.0))
                elif isinstance(message, Ack):
                    await self._send(self._link.ack(message.upto, 0.0))

    async def _send(self, frames: list[bytes]) -> None:
        for frame in frames:
            await self._socket.send(self._front + frame)

    def close(self) -> None:
        self._reading.cancel()
        self._socket.close()


class ScriptedBroker:
    """The one of a run directory. It welcomes every front, and says nothing else unasked."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._context = zmq.asyncio.Context()
        self._socket: Any = None
        self._epochs = (f"epoch{number:03}".encode() for number in count())
        self._incs = (f"worker{number:02}".encode() for number in count())
        self._workers: dict[str, ScriptedWorker] = {}
        self._peer = b""
        self._epoch = b""
        self._is_known = False
        """Whether this front has said hello."""
        self._reading: asyncio.Task[None] | None = None
        self.heard: list[Message] = []
        """All that came and nobody took, but for pings."""
        self.on_submit: Callable[[Submit], Message | None] = lambda submit: None
        """What is answered instead of placing a job."""

    async def start(self) -> None:
        """Be there; after `stop`, another one is."""
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(self._run_dir.front_endpoint)
        self._epoch = next(self._epochs)
        self._is_known = False
        self._reading = asyncio.create_task(self._read())

    def stop(self) -> None:
        """Die. Workers live on."""
        assert self._reading is not None
        self._reading.cancel()
        self._socket.close()

    async def say(self, message: Message) -> None:
        await self._socket.send_multipart([self._peer, encode(message)])

    async def hear(self, kind: type[M]) -> M:
        """The next message of this kind, taken out of `heard`."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for message in self.heard:
                    if isinstance(message, kind):
                        self.heard.remove(message)
                        return message
                await asyncio.sleep(0.005)

    def num_heard(self, kind: type[Any]) -> int:
        return sum(isinstance(message, kind) for message in self.heard)

    async def up(self, card: Card, text: str = "Hello there!") -> None:
        """A worker of this model comes up, which says this text."""
        worker = ScriptedWorker(self._context, self._run_dir, card, next(self._incs), text)
        self._workers[card.names[0]] = worker
        if self._peer:
            await self.say(WorkerUp(worker.info))

    async def down(self, model: str) -> None:
        """Its worker leaves."""
        worker = self._workers.pop(model)
        await self.say(WorkerDown(worker.info.inc))
        worker.close()

    async def _read(self) -> None:
        while True:
            self._peer, frame = await self._socket.recv_multipart()
            message = decode(frame)
            if isinstance(message, FrontHello):
                self._is_known = True
                await self.say(Welcome(self._epoch, [worker.info for worker in self._workers.values()]))
            elif isinstance(message, Ping):
                if not self._is_known:
                    await self.say(Who(self._epoch))
            else:
                self.heard.append(message)
            if isinstance(message, Submit):
                await self._submitted(message)

    async def _submitted(self, submit: Submit) -> None:
        if (answer := self.on_submit(submit)) is not None:
            return await self.say(answer)
        if worker := self._workers.get(submit.model):
            await self.say(Placed(submit.job, submit.attempt, worker.info.inc))
            await worker.run(submit)
        return None

    def close(self) -> None:
        self.stop()
        for worker in self._workers.values():
            worker.close()
        self._context.destroy(linger=0)


@asynccontextmanager
async def scripted_broker() -> AsyncIterator[tuple[ScriptedBroker, RunDir]]:
    """One in a run directory of its own."""
    with tempfile.TemporaryDirectory(prefix="scripted-") as folder:
        run_dir = RunDir(Path(folder))
        broker = ScriptedBroker(run_dir)
        await broker.start()
        try:
            yield broker, run_dir
        finally:
            broker.close()
