"""The front's client of the pool: what requests may call a model."""

import asyncio
import tempfile
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from models import CARD

from tokenyard.broker.codec import decode, encode
from tokenyard.broker.config import RunDir
from tokenyard.broker.wire import FrontHello, Welcome, WorkerInfo
from tokenyard.http.pool import Pool

MODEL = CARD._replace(names=["org/m", "m@home"], commit="c0ffee", revision="v1")


async def known_names(names: list[str]) -> list[bool]:
    """Which of them a front finds, once a broker has told it of MODEL."""
    with tempfile.TemporaryDirectory(prefix="pool-") as folder, zmq.asyncio.Context() as context:
        run_dir = RunDir(Path(folder))
        broker = context.socket(zmq.ROUTER)
        broker.linger = 0
        broker.bind(run_dir.front_endpoint)
        pool = Pool(run_dir)
        await pool.start()
        try:
            async with asyncio.timeout(10):
                peer, frame = await broker.recv_multipart()
                assert isinstance(decode(frame), FrontHello)
                worker = WorkerInfo(b"worker..", "ipc:///nowhere", MODEL)
                await broker.send_multipart([peer, encode(Welcome(b"epoch...", [worker]))])
                await pool.wait_welcomed(10)
            return [pool.find(name) is not None for name in names]
        finally:
            await pool.close()
            broker.close()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["org/m", "org/m@v1", "org/m@c0ffee", "m@home", "m@home@v1"], True),
        (["org/m@v2", "org/m@", "m", "org", "m@v1", "@v1", ""], False),
    ],
)
def test_a_model_is_found_by_its_names_with_or_without_its_revision(names: list[str], found: bool) -> None:
    assert asyncio.run(known_names(names)) == [found] * len(names)
