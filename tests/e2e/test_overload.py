"""Ten times more than a pool can take at once: bounded queues, clear refusals, flat memory, and recovery at once."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil
import pytest
from yard import Yard

pytestmark = pytest.mark.slow

NUM_SEQS, QUEUE = 4, 8
NUM_CLIENTS = 10 * (NUM_SEQS + QUEUE)
BODY = {"model": "tokenyard-demo", "prompt": "Once upon a time", "max_tokens": 40, "ignore_eos": True}
MAX_GROWTH_BYTES = 16 << 20
"""Of a front or broker in two floods: well under what one kept request a client would add up to over many."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Yard]:
    yard = Yard(worker_arguments=["--max-num-seqs", str(NUM_SEQS)], broker_arguments=["--queue-limit", str(QUEUE)])
    yield yard
    yard.close()


async def flood(url: str, num_clients: int) -> tuple[list[httpx.Response], float]:
    """Every answer to so many requests at once, and how long the whole took."""
    limits = httpx.Limits(max_connections=num_clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        began_s = time.monotonic()
        answers = await asyncio.gather(*(client.post("/v1/completions", json=BODY) for _ in range(num_clients)))
        return answers, time.monotonic() - began_s


def rss(yard: Yard) -> int:
    return sum(psutil.Process(one.pid).memory_info().rss for one in (yard.front, yard.broker))


def test_a_flood_is_refused_and_leaves_nothing_behind(pool: Yard) -> None:
    calm, calm_s = asyncio.run(flood(pool.url, NUM_SEQS))
    assert [answer.status_code for answer in calm] == [200] * NUM_SEQS
    asyncio.run(flood(pool.url, NUM_CLIENTS))  # what is allocated once is not growth
    before = rss(pool)
    for _ in range(2):
        answers, took_s = asyncio.run(flood(pool.url, NUM_CLIENTS))
        counts = Counter(answer.status_code for answer in answers)
        assert counts.keys() == {200, 429}
        assert counts[200] >= NUM_SEQS + QUEUE
        for answer in answers:
            if answer.status_code == 200:
                assert answer.json()["usage"]["completion_tokens"] == BODY["max_tokens"]
            else:
                error = answer.json()["error"]
                assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
                assert int(answer.headers["retry-after"]) >= 1
        # The admitted are served in batches as if nobody else were there; 3 is for the machine's neighbours.
        assert took_s < 3 * calm_s * (counts[200] / NUM_SEQS + 1)
        again, again_s = asyncio.run(flood(pool.url, NUM_SEQS))
        assert [answer.status_code for answer in again] == [200] * NUM_SEQS
        assert again_s < 3 * calm_s + 0.5
    assert rss(pool) - before < MAX_GROWTH_BYTES
