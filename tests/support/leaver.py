"""A client that leaves in the middle, streaming or not: its job must leave the workers, too."""

import asyncio

import httpx
from yard import Yard, wait_until


def check_leaving(server: Yard, model: str, max_tokens: int) -> None:
    """`max_tokens`: so many that the job is still running when its client is gone."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Count from 1 to 60."}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }

    async def leave(streaming: bool) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            task = asyncio.create_task(client.post("/v1/chat/completions", json={**body, "stream": streaming}))
            await asyncio.to_thread(wait_until, lambda: _running(server) == 1, "the job to run", 10)
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    for streaming in (True, False):
        asyncio.run(leave(streaming))
        wait_until(lambda: _running(server) == 0, "the job to be gone", 5)


def _running(server: Yard) -> int:
    """Sequences in all workers, waiting ones included."""
    loads = [worker["load"] for worker in server.status()["workers"]]
    return sum(load.get("running", 0) + load.get("waiting", 0) for load in loads)
