"""Tokens from workers' sockets to the front's sinks: all, in order, a bounded number at a time."""

import asyncio
import math
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from models import CARD

from tokenyard.broker import sockets
from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import RunDir
from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.identity import prover_of
from tokenyard.broker.params import Params
from tokenyard.broker.wire import (
    Accepted,
    Delta,
    Finish,
    LinkUp,
    Resume,
    Submit,
    Tokens,
    TokensDown,
    Welcome,
    WorkerDown,
    WorkerInfo,
    WorkerUp,
)
from tokenyard.http import links
from tokenyard.http.pool import JobRequest, Pool

WORKER = b"worker.."


class Sink:
    """Notes what one job is told, and how many tokens the cork held back at a time."""

    def __init__(self, pool: Pool) -> None:
        self.token_ids: list[int] = []
        self.finish: Finish | None = None
        self.writes: list[list[int]] = []
        """Tokens of each write that would go to the client."""
        self._pool = pool
        self._kept: list[int] = []

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        self.token_ids += token_ids
        self.finish = finish
        if not self._pool.cork.held:
            self.writes.append(token_ids)
            return
        if not self._kept:
            self._pool.cork.wait(self._write)
        self._kept += token_ids

    def _write(self) -> None:
        self.writes.append(self._kept)
        self._kept = []

    def failed(self, error: TokenyardError) -> None:
        raise AssertionError(error)


class FarEnd:
    """The broker and the one worker that a front talks to; what they say is the test's to choose."""

    def __init__(self, broker: Any, tokens: Any, pool: Pool) -> None:
        self.pool = pool
        self.front = self.peer = b""
        self._broker = broker
        self._tokens = tokens

    async def begin(self, *counts: int) -> list[Sink]:
        """Jobs of so many tokens, accepted."""
        sinks = [Sink(self.pool) for _ in counts]
        for sink, count in zip(sinks, counts, strict=True):
            self.pool.submit(JobRequest(CARD.names[0], [1], Params(count)), sink)
            while True:
                peer, frame = await self._broker.recv_multipart()
                message = decode(frame)
                if isinstance(message, Submit):
                    break
            await self._broker.send_multipart([peer, encode(Accepted(message.job, 1))])
        return sinks

    async def say(self, *messages: TokensDown) -> None:
        """All of these are in the front's socket before its loop runs again."""
        for message in messages:
            await self._tokens.send(self.front + encode(message))
        time.sleep(0.05)


@asynccontextmanager
async def far_end() -> AsyncIterator[FarEnd]:
    with tempfile.TemporaryDirectory(prefix="links-") as folder, zmq.asyncio.Context() as context:
        run_dir = RunDir(Path(folder))
        broker, tokens = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
        broker.linger = tokens.linger = 0
        broker.bind(run_dir.front_endpoint)
        tokens.bind(run_dir.tokens_endpoint(WORKER))
        client = Pool(BrokerAddress.of(Path(folder)))
        await client.start()
        end = FarEnd(broker, tokens, client)
        try:
            async with asyncio.timeout(20):
                peer, _ = await broker.recv_multipart()
                end.peer = peer
                worker = WorkerInfo(WORKER, run_dir.tokens_endpoint(WORKER), CARD)
                await broker.send_multipart([peer, encode(Welcome(b"epoch...", [worker]))])
                end.front, proven = (await tokens.recv())[1:], prover_of((await tokens.recv())[1:])
                assert end.front == proven
                await tokens.send(end.front + encode(LinkUp(WORKER, 0, 0)))
                while not isinstance(decode(await tokens.recv()), Resume):
                    pass
                yield end
        finally:
            await client.close()
            broker.close()
            tokens.close()


def batches(count: int, jobs: int) -> list[Tokens]:
    """So many steps of all jobs; token ids tell job and place, and the last step ends them."""
    return [
        Tokens(
            seq,
            [
                Delta(job, 1, seq, [1000 * job + seq], {}, Finish("length") if seq == count - 1 else None)
                for job in range(1, jobs + 1)
            ],
        )
        for seq in range(count)
    ]


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_one_batch_is_written_as_it_is_and_many_at_once_as_one_a_stream() -> None:
    async def run() -> None:
        async with far_end() as end:
            sinks = await end.begin(6, 6)
            said = batches(6, 2)
            for message in said[:2]:
                await end.say(message)
                await until(lambda message=message: len(sinks[1].token_ids) == message.seq + 1)
            await end.say(*said[2:])
            await until(lambda: sinks[1].finish is not None)
            for job, sink in enumerate(sinks, 1):
                first = 1000 * job
                assert sink.token_ids == list(range(first, first + 6))
                assert sink.writes == [[first], [first + 1], [*range(first + 2, first + 6)]]
                assert sink.finish == Finish("length")

    asyncio.run(run())


def test_a_front_that_is_behind_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MAX_DELTAS", 10)

    async def run() -> None:
        async with far_end() as end:
            [sink] = await end.begin(200)
            seen: list[int] = []

            def look() -> None:
                seen.append(len(sink.token_ids))
                if sink.finish is None:
                    asyncio.get_running_loop().call_soon(look)

            look()
            await end.say(*batches(200, 1))
            await until(lambda: sink.finish is not None)
            assert sink.token_ids == list(range(1000, 1200))
            # The socket may wake its reader in the round in which it is read on anyway.
            assert max(after - before for before, after in zip(seen, [*seen[1:], 200], strict=True)) <= 20

    asyncio.run(run())


def test_what_the_broker_says_is_read_on_after_others_had_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_FRAMES", 10)

    async def run() -> None:
        async with far_end() as end:
            end.pool._ping_at = math.inf  # a send looks at the socket again, too
            for message in (*[Accepted(99, 1)] * 25, WorkerDown(WORKER)):
                await end._broker.send_multipart([end.peer, encode(message)])
            time.sleep(0.05)
            await until(lambda: not end.pool.num_workers)

    asyncio.run(run())


@contextmanager
def no_more_files() -> Iterator[None]:
    """As if this process had as many open as it may."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_worker_for_whom_no_socket_was_left_gets_one_later() -> None:
    async def run() -> None:
        async with far_end() as end:
            with tempfile.TemporaryDirectory(prefix="links-") as folder, end._broker.context.socket(zmq.XPUB) as tokens:
                tokens.bind(f"ipc://{folder}/tokens.sock")
                up = WorkerUp(WorkerInfo(b"another.", f"ipc://{folder}/tokens.sock", CARD))
                with no_more_files():
                    await end._broker.send_multipart([end.peer, encode(up)])
                    await until(lambda: end.pool._links.beyond)
                    assert "Too many open files" in end.pool._links.beyond[b"another."]
                assert (await tokens.recv())[1:] == end.front
                await tokens.send(end.front + encode(LinkUp(b"another.", 0, 0)))
                await until(lambda: not end.pool._links.beyond)
            [sink] = await end.begin(6)
            await end.say(*batches(6, 1))
            await until(lambda: sink.finish is not None)

    asyncio.run(run())


def test_frames_out_of_order_or_broken_are_dropped_in_mid_burst() -> None:
    async def run() -> None:
        async with far_end() as end:
            [sink] = await end.begin(6)
            said = batches(6, 1)
            await end.say(said[0], said[0], said[2], said[1])
            await end._tokens.send(end.front + b"no message")
            await end.say(said[2], said[1], *said[3:])
            await until(lambda: sink.finish is not None)
            assert sink.token_ids == list(range(1000, 1006))

    asyncio.run(run())
