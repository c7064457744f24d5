"""The other lanes behind real processes: a recurrent model's streams survive their worker, and texts become vectors."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from engines import save_tiny
from leaver import check_leaving
from models import DEMO, demo_tokenizer
from sse import Reply, stream
from transformers import AutoModelForCausalLM
from yard import Yard

from tokenyard.broker.endpoints import BrokerAddress
from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.wire import Finish
from tokenyard.http.pool import JobRequest, Pool

pytestmark = pytest.mark.slow

LENGTH = 60
LONG = 6000
"""Tokens for which even a tiny model takes seconds."""
NUM_STREAMS = 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Mamba that speaks with the demo model's tokenizer."""
    path = save_tiny(
        tmp_path_factory.mktemp("models") / "tiny-mamba", "mamba", vocab_size=2048, max_position_embeddings=8192
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(DEMO) / name, path)
    return path


@pytest.fixture(scope="module")
def yard(directory: Path) -> Iterator[Yard]:
    yard = Yard(str(directory), num_workers=2)
    yield yard
    yard.close()


def request(index: int) -> dict[str, Any]:
    """Every other one sampled."""
    message = {"role": "user", "content": f"Count from {index} to 60."}
    how = {"temperature": 0.8, "seed": index} if index % 2 else {"temperature": 0}
    return {"model": "tiny-mamba", "messages": [message], "max_tokens": LENGTH, "ignore_eos": True, **how}


async def run_all(yard: Yard, kill: bool) -> list[Reply]:
    """All requests at once; with `kill`, one of the two workers ends once every stream runs."""
    begun: set[int] = set()

    def seen(index: int) -> None:
        begun.add(index)
        if kill and len(begun) == NUM_STREAMS and yard.workers[0].poll() is None:
            yard.workers[0].kill()

    async with httpx.AsyncClient(base_url=yard.url, timeout=60) as client:
        return await asyncio.gather(
            *(
                stream(client, request(index), lambda count, index=index: seen(index) if count > 5 else None)  # type: ignore[misc]
                for index in range(NUM_STREAMS)
            )
        )


def test_streams_of_a_recurrent_model_survive_their_worker(yard: Yard) -> None:
    (card,) = httpx.get(f"{yard.url}/v1/models", timeout=30).json()["data"]
    assert card["lane"] == "plain"
    undisturbed = asyncio.run(run_all(yard, kill=False))
    disturbed = asyncio.run(run_all(yard, kill=True))
    assert yard.workers.pop(0).wait(5) == -9
    assert [reply.text for reply in disturbed] == [reply.text for reply in undisturbed]
    assert len({reply.text for reply in undisturbed}) == NUM_STREAMS
    for reply in disturbed:
        assert reply.usage is not None
        assert reply.usage["completion_tokens"] == LENGTH


def test_a_client_that_leaves_frees_a_recurrent_models_worker(yard: Yard) -> None:
    check_leaving(yard, "tiny-mamba", max_tokens=LONG)


class Answer:
    """One job's sink."""

    def __init__(self) -> None:
        self.vector = b""
        self.ended = asyncio.Event()
        self.finish: Finish | TokenyardError | None = None

    def delta(self, token_ids: list[int], extra: dict[str, Any], finish: Finish | None) -> None:
        assert not token_ids
        self.vector += extra.get("embedding", b"")
        if finish is not None:
            self.finish = finish
            self.ended.set()

    def failed(self, error: TokenyardError) -> None:
        self.finish = error
        self.ended.set()


async def embed(run_dir: Path, prompt_ids: list[int]) -> bytes:
    """Through a front's own client of the pool."""
    pool = Pool(BrokerAddress.of(run_dir))
    await pool.start()
    try:
        async with asyncio.timeout(60):
            while not pool.ready:
                await asyncio.sleep(0.01)
            answer = Answer()
            pool.submit(JobRequest("tiny-mamba", prompt_ids, Params(max_tokens=1), kind="embed"), answer)
            await answer.ended.wait()
    finally:
        await pool.close()
    assert answer.finish == Finish("stop")
    return answer.vector


def test_a_text_becomes_a_vector(yard: Yard, directory: Path) -> None:
    prompt_ids = demo_tokenizer().backend.encode("What is the capital of France?").ids
    vector = np.frombuffer(asyncio.run(embed(yard.run_dir, prompt_ids)), "<f4")
    body = AutoModelForCausalLM.from_pretrained(directory).base_model.eval()
    with torch.inference_mode():
        last = body(input_ids=torch.tensor([prompt_ids])).last_hidden_state[0, -1].numpy()
    np.testing.assert_allclose(vector, last / np.linalg.norm(last), atol=1e-5)
