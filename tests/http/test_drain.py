"""A front that is told to end: SIGTERM lets streams finish and takes no more, a second one ends at once."""

import asyncio
import signal
from collections.abc import Iterator

import httpx
import pytest
from sse import Reply, stream
from yard import Yard, wait_until

pytestmark = pytest.mark.slow

LONG = {
    "model": "tokenyard-demo",
    "messages": [{"role": "user", "content": "Count from 1 to 60."}],
    "max_tokens": 300,
    "ignore_eos": True,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    yard = Yard()
    yield yard
    yard.close()


@pytest.fixture
def front(yard: Yard) -> Yard:
    """The yard with a front that lives."""
    if yard.front.poll() is not None:
        yard.front = yard.start("front", "--port", str(yard.port))
        yard.wait_workers(1)
    return yard


async def stream_and_signal(yard: Yard, signals: list[signal.Signals]) -> Reply:
    """Stream; when some events have come, send the signals, a moment apart."""

    def on_event(num_events: int) -> None:
        if 5 <= num_events < 5 + len(signals):
            yard.front.send_signal(signals[num_events - 5])

    async with httpx.AsyncClient(base_url=yard.url, timeout=60) as client:
        return await stream(client, LONG, on_event)


def test_sigterm_lets_a_stream_finish_and_takes_no_more(front: Yard) -> None:
    async def run() -> Reply:
        task = asyncio.create_task(stream_and_signal(front, [signal.SIGTERM]))
        await asyncio.to_thread(wait_until, lambda: not accepts(front) and not task.done(), "the front to refuse", 20)
        return await task

    reply = asyncio.run(run())
    assert reply.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage["completion_tokens"] == 300
    assert front.front.wait(timeout=20) == 0


def accepts(yard: Yard) -> bool:
    try:
        httpx.get(f"{yard.url}/health", timeout=5)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize("signals", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]])
def test_a_second_sigterm_or_sigint_ends_at_once(front: Yard, signals: list[signal.Signals]) -> None:
    with pytest.raises((httpx.TransportError, AssertionError)):
        asyncio.run(stream_and_signal(front, signals))
    assert front.front.wait(timeout=10) == 0
