"""Models that take turns on one device: a real pool, one slot beside a pinned model, real loads."""

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from models import DEMO
from safetensors.torch import load_file, save_file
from served import Served
from yard import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

IDLE_S = 2
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`pinned` is up and stays; `b` and `c`, which answer differently, share the other slot."""
    models = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("b", "c")):
        shutil.copytree(DEMO, models / name)
        tensors = load_file(models / name / "model.safetensors")
        torch.manual_seed(number)
        key = next(one for one in tensors if one.endswith("embed_tokens.weight"))
        tensors[key] = tensors[key][torch.randperm(len(tensors[key]))].contiguous()
        save_file(tensors, models / name / "model.safetensors", metadata={"format": "pt"})
    options = ["--gpu-share", "2", "--models-dir", str(models), "--evict", "busy", "--model-timeout", str(IDLE_S)]
    served = Served("demo,name=pinned,pin", *options)
    try:
        yield served.wait_ready()
    finally:
        served.close()


def ask(served: Served, model: str, num_tokens: int = 12) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=200)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return str(answer.json()["choices"][0]["text"])


def loaded(served: Served) -> set[str]:
    return {model for worker in served.status()["workers"] for model in worker["models"]}


@pytest.mark.faults  # half a minute of loads; tests/broker/test_loads.py has the same turns without processes
def test_two_models_take_turns_and_the_pinned_one_notices_nothing(served: Served) -> None:
    alone = {model: ask(served, model) for model in ("b", "c", "pinned")}
    assert len(set(alone.values())) == 3
    ended = threading.Event()
    stalls: list[float] = []

    def watch_pinned() -> None:
        while not ended.is_set():
            began = time.monotonic()
            assert ask(served, "pinned") == alone["pinned"]
            stalls.append(time.monotonic() - began)

    began = time.monotonic()
    with ThreadPoolExecutor(9) as clients:
        watcher = clients.submit(watch_pinned)
        try:
            answers = list(clients.map(lambda number: ask(served, "bc"[number % 2]), range(16)))
        finally:
            ended.set()
        watcher.result()
    assert answers == [alone["bc"[number % 2]] for number in range(16)]
    assert len(stalls) > 3
    num_swaps = served.log().count("makes room for")  # some come without: whoever is idle is unloaded
    assert num_swaps <= 2 + (time.monotonic() - began) / 5, "they thrash"
    assert "pinned makes room" not in served.log()


def test_a_killed_load_begins_again_and_its_waiters_are_answered(served: Served) -> None:
    wait_until(lambda: loaded(served) == {"pinned"}, "the idle models to be unloaded", 60)
    with ThreadPoolExecutor(4) as clients:
        waiters = [clients.submit(ask, served, "b") for _ in range(4)]

        def killed() -> bool:
            """At first sight: it loads for a tenth of a second only."""
            loading = [one for one in served.status()["workers"] if one["state"] == "loading"]
            for one in loading:
                psutil.Process(one["pid"]).kill()
            return bool(loading)

        wait_until(killed, "a worker that loads", 60)
        texts = {waiter.result() for waiter in waiters}
    assert len(texts) == 1
    assert "SIGKILL from outside" in served.log()


def test_an_idle_model_is_unloaded_and_the_named_one_stays(served: Served, tmp_path: Path) -> None:
    ask(served, "c")
    assert "c" in loaded(served)
    last = time.monotonic()
    wait_until(lambda: "c" not in loaded(served), "c to be unloaded", 60)
    assert time.monotonic() - last > IDLE_S - 1
    assert loaded(served) == {"pinned"}
    assert served.status()["loads"] == []
