"""Models that requests have loaded, from the openai SDK to a fresh process: the wait in view, one load for all."""

import asyncio
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from models import DEMO
from safetensors.torch import load_file, save_file
from served import Served
from transformers.cli.chat import RichInterface

pytestmark = pytest.mark.slow

MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WAIT_S = 100.0
"""Bound on a load on two busy cores."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serves the demo model; four copies of it, one of them without some of its weights, may be asked for."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("one", "two", "three", "broken"):
        shutil.copytree(DEMO, folder / "org" / name)
    weights = folder / "org" / "broken" / "model.safetensors"
    tensors = load_file(weights)
    missing = next(name for name in tensors if "down_proj" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != missing}, weights, metadata={"format": "pt"})
    served = Served("--models-dir", str(folder), "--gpu-share", "5", "--no-compile")
    try:
        yield served.wait_ready()
    finally:
        served.close()


def loads_of(served: Served, model: str) -> int:
    """How often it was given a place."""
    return served.log().count(f"{model} goes to cpu")


def test_a_stream_shows_the_load_of_its_model(served: Served) -> None:
    body = {"model": "org/one", "messages": MESSAGES, "stream": True, "max_tokens": 20}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=WAIT_S) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.status_code == 200
    num_comments = next(index for index, line in enumerate(lines) if not line.startswith(":"))
    assert num_comments > 1, lines
    assert all(line.startswith(": loading org/one") for line in lines[:num_comments])
    assert "Paris" in "".join(lines)
    assert lines[-1] == "data: [DONE]"
    assert loads_of(served, "org/one") == 1


def test_twenty_first_requests_make_one_load(served: Served) -> None:
    async def ask(client: openai.AsyncOpenAI, stream: bool) -> str:
        wish: dict[str, Any] = {"model": "org/two", "messages": MESSAGES, "max_tokens": 20}
        if not stream:
            whole = await client.chat.completions.create(**wish)
            return str(whole.choices[0].message.content)
        chunks = [chunk async for chunk in await client.chat.completions.create(**wish, stream=True)]
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=WAIT_S
        ) as client:
            return await asyncio.gather(*(ask(client, bool(number % 2)) for number in range(20)))

    answers = asyncio.run(run())
    assert len(set(answers)) == 1
    assert "Paris" in answers[0]
    assert loads_of(served, "org/two") == 1
    metrics = httpx.get(f"{served.url}/metrics").text
    assert 'tokenyard_model_loads_total{model_name="org/two",outcome="up"} 1.0' in metrics


def test_a_load_that_fails_tells_all_who_wait(served: Served) -> None:
    body = {"model": "org/broken", "messages": MESSAGES}

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=served.url, timeout=WAIT_S) as client:
            asked = [
                client.post("/v1/chat/completions", json={**body, "stream": stream}) for stream in (True, False) * 3
            ]
            return await asyncio.gather(*asked)

    for response in asyncio.run(run()):
        assert "org/broken cannot be loaded" in response.text
        assert "weights are missing" in response.text
        assert "Traceback" not in response.text
        if response.status_code == 200:
            assert ": loading org/broken" in response.text
            assert response.text.endswith("data: [DONE]\n\n")
        else:
            assert response.json()["error"]["code"] == "model_load_failed"
    entries = {one["id"]: one["status"]["value"] for one in httpx.get(f"{served.url}/v1/models").json()["data"]}
    assert entries["tokenyard-demo"] == "loaded", "the fleet is as it was"
    assert entries["org/broken"] == "unloaded"


def test_transformers_own_client_loads_a_model(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    client = RichInterface("org/three", "somebody", f"{served.url}/v1")
    for words in ("org/three is warm", "org/three was already loaded"):
        client.print_model_load("org/three")
        assert words in capsys.readouterr().out
    unloaded = httpx.post(f"{served.url}/v1/models/unload", json={"model": "org/three"}, timeout=WAIT_S)
    assert unloaded.json() == {"id": "org/three", "object": "model", "unloaded": True}
    assert httpx.get(f"{served.url}/v1/models/org/three").json()["status"] == {"value": "unloaded"}
