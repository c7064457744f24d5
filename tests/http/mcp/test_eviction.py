"""A model that makes room for another while its tools run: the next turn has it loaded again."""

import asyncio
import shutil
from pathlib import Path

import pytest
from front import request
from mcp_front import MODEL, as_entry, calls, mcp_front
from models import DEMO
from scripted import Job

from tokenyard.http.catalog.policy import Policy


@pytest.mark.slow
def test_each_turn_wants_its_model(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "models" / MODEL)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Add."}],
        "tools": [{"type": "mcp", "server_label": "trial"}],
    }

    async def work() -> None:
        policy = Policy(models_dir=tmp_path / "models")
        async with mcp_front(tmp_path, {"trial": as_entry(default=False)}, models=policy) as front:

            def play(job: Job) -> None:
                job.run()
                job.say(calls(("trial__add", {"a": 1, "b": 2})) if len(front.pool.jobs) == 1 else "It is 3.")
                job.end()
                front.pool.evicted.add(MODEL)

            front.pool.play = play
            answer = await request(front.app, "POST", "/v1/chat/completions", json=body)
            assert answer.json()["choices"][0]["message"]["content"] == "It is 3."
            assert front.pool.wanted == [MODEL], "for the second turn"

    asyncio.run(work())
