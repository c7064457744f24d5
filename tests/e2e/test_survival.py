"""The first promise: a stream survives its worker, and the broker. Real processes, killed with -9 in mid-stream.

The right text of every stream is known from an undisturbed run of the same request on the same pool.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sse import Reply, stream
from yard import Yard, wait_until

pytestmark = pytest.mark.slow

LENGTH = 200
NUM_STREAMS = 8


def requests() -> list[dict[str, Any]]:
    """Half greedy, half sampled with a seed; all long enough to be killed in the middle."""
    return [
        {
            "model": "tokenyard-demo",
            "messages": [{"role": "user", "content": f"Count from {index + 1} to 60."}],
            "max_tokens": LENGTH,
            "ignore_eos": True,
            **({"temperature": 0} if index % 2 == 0 else {"temperature": 0.8, "seed": index}),
        }
        for index in range(NUM_STREAMS)
    ]


async def run_all(url: str, disturb: Callable[[], None] | None = None) -> list[Reply]:
    """All requests at once; `disturb` is called when each stream has had a tenth of its tokens."""
    events = [0] * NUM_STREAMS
    disturbed = disturb is None

    def seen(index: int, count: int) -> None:
        nonlocal disturbed
        events[index] = count
        if not disturbed and min(events) >= LENGTH // 10:
            assert max(events) < LENGTH, "every stream is still running"
            disturbed = True
            assert disturb is not None
            disturb()

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        replies = await asyncio.gather(
            *(
                stream(client, body, lambda count, index=index: seen(index, count))  # type: ignore[misc]
                for index, body in enumerate(requests())
            )
        )
    assert disturbed
    return replies


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    yard = Yard(num_workers=2)
    yield yard
    yard.close()


@pytest.fixture(scope="module")
def undisturbed(yard: Yard) -> list[Reply]:
    return asyncio.run(run_all(yard.url))


def check(replies: list[Reply], undisturbed: list[Reply]) -> None:
    for reply, right in zip(replies, undisturbed, strict=True):
        assert reply.text == right.text
        assert reply.finish_reason == right.finish_reason == "length"
        assert reply.usage is not None
        assert reply.usage["completion_tokens"] == LENGTH


def test_an_undisturbed_run_repeats(yard: Yard, undisturbed: list[Reply]) -> None:
    check(asyncio.run(run_all(yard.url)), undisturbed)
    assert len({reply.text for reply in undisturbed}) == NUM_STREAMS


def test_streams_survive_a_worker_killed_in_their_middle(yard: Yard, undisturbed: list[Reply]) -> None:
    victim = yard.workers.pop(0)
    check(asyncio.run(run_all(yard.url, victim.kill)), undisturbed)
    assert victim.wait(5) == -9
    wait_until(lambda: yard.pool().get("workers") == 1, "the front to drop the dead worker")
    yard.workers.append(yard.start_worker())
    yard.wait_workers(2)


def test_logprobs_of_prompts_survive_a_worker_killed_among_them(yard: Yard) -> None:
    """Each token's come once, whoever computed them."""
    words = [" ".join(str(number * index % 97) for number in range(400)) for index in range(1, 25)]
    body = {"model": "tokenyard-demo", "prompt": words, "max_tokens": 2, "echo": True, "logprobs": 1, "temperature": 0}

    def ask() -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = httpx.post(f"{yard.url}/v1/completions", json=body, timeout=120).json()[
            "choices"
        ]
        return choices

    right = ask()
    victim = yard.workers.pop(0)
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        wait_until(lambda: running(yard, victim.pid) > 2, "jobs on the worker")
        victim.kill()
        assert not asking.done()
        found = asking.result()
    assert victim.wait(5) == -9
    for choice, expected in zip(found, right, strict=True):
        assert choice["text"] == expected["text"]
        assert choice["logprobs"]["tokens"] == expected["logprobs"]["tokens"]
        pairs = zip(choice["logprobs"]["token_logprobs"], expected["logprobs"]["token_logprobs"], strict=True)
        assert next(pairs) == (None, None)
        assert all(one == pytest.approx(other, abs=1e-2) for one, other in pairs)
    yard.workers.append(yard.start_worker())
    yard.wait_workers(2)


def running(yard: Yard, pid: int) -> int:
    """Jobs of one worker."""
    return next(worker["running"] for worker in yard.status()["workers"] if worker["pid"] == pid)


def test_streams_survive_a_broker_killed_in_their_middle(yard: Yard, undisturbed: list[Reply]) -> None:
    check(asyncio.run(run_all(yard.url, yard.restart_broker)), undisturbed)
    yard.wait_workers(2)


def test_requests_made_while_the_broker_is_dead_are_answered(yard: Yard, undisturbed: list[Reply]) -> None:
    yard.broker.kill()
    yard.broker.wait()

    async def ask() -> list[Reply]:
        asking = asyncio.create_task(run_all(yard.url))
        await asyncio.sleep(0.2)
        yard.broker = yard.start("broker")
        return await asking

    check(asyncio.run(ask()), undisturbed)


def test_a_worker_told_to_end_finishes_its_streams_first(yard: Yard, undisturbed: list[Reply]) -> None:
    leaver = yard.workers.pop(0)
    check(asyncio.run(run_all(yard.url, leaver.terminate)), undisturbed)
    assert leaver.wait(20) == 0
    yard.workers.append(yard.start_worker())
    yard.wait_workers(2)


def test_a_front_started_anew_answers_its_first_request(yard: Yard) -> None:
    yard.front.kill()
    yard.front.wait()
    yard.front = yard.start("front", "--port", str(yard.port))
    answers: list[int] = []

    def answered() -> bool:
        try:
            answers.append(httpx.post(f"{yard.url}/v1/chat/completions", json=requests()[0], timeout=30).status_code)
        except httpx.ConnectError:
            return False
        return True

    wait_until(answered, "the new front to answer")
    assert answers == [200]
