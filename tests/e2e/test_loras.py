"""Adapters on a real pool, over HTTP: each answer is the merged model's, whatever dies and whatever is loaded anew."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from loras import save_lora
from models import DEMO
from reference import Reference
from served import Served
from yard import Yard, wait_until

from tokenyard.broker.params import Params

pytestmark = pytest.mark.slow

BASE = "tokenyard-demo"
LENGTH = 24
PROMPT = list(range(100, 160))
MANY = 400
"""Tokens of a stream that is still running when its worker dies."""


@pytest.mark.faults  # a pool of its own; tests/http has the same without processes
def test_an_adapter_brings_up_its_base(tmp_path: Path) -> None:
    """It is named at the start of a supervisor; the base comes on demand, and goes, and comes again."""
    base = tmp_path / "models" / "org" / "base"
    shutil.copytree(DEMO, base)
    lora = save_lora(base, tmp_path / "lora", 5, lora_alpha=4)
    given = ["--lora", f"sql,source={lora},base=org/base", "--max-loras", "1"]
    served = Served("--models-dir", str(tmp_path / "models"), "--gpu-share", "2", "--no-compile", *given)
    try:
        served.wait_ready()
        for _ in range(2):
            listed = {one["id"]: one for one in httpx.get(f"{served.url}/v1/models").json()["data"]}
            assert (listed["sql"]["parent"], listed["sql"]["status"]["value"]) == ("org/base", "unloaded")
            response = httpx.post(f"{served.url}/v1/completions", json=body_of("sql", LENGTH), timeout=100)
            assert response.status_code == 200, response.text
            params = Params(max_tokens=LENGTH, temperature=0.0)
            Reference(lora / "merged").check(PROMPT, response.json()["choices"][0]["token_ids"], params)
            unloaded = httpx.post(f"{served.url}/v1/models/unload", json={"model": "org/base"}, timeout=100)
            assert unloaded.status_code == 200
    finally:
        served.close()


class Adapters:
    """The directory that requests may load from, and a merged reference for each adapter in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.references = {BASE: Reference(Path(DEMO))}
        for seed, name in enumerate(("given", "one", "two"), 1):
            self.make(name, seed)

    def make(self, name: str, seed: int) -> Reference:
        shutil.rmtree(self.root / name, ignore_errors=True)
        save_lora(Path(DEMO), self.root / name, seed, lora_alpha=4)
        self.references[name] = Reference(self.root / name / "merged")
        return self.references[name]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    return Adapters(tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def yard(adapters: Adapters) -> Iterator[Yard]:
    yard = Yard(
        num_workers=2,
        worker_arguments=["--max-loras", "3"],
        broker_arguments=["--lora", f"given,source={adapters.root / 'given'},base={BASE}"],
        front_arguments=["--lora-dir", str(adapters.root), "--api-key", "secret"],
    )
    yield yard
    yard.close()


def post(yard: Yard, path: str, key: str = "secret", **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{yard.url}/v1/{path}", json=body, headers=headers, timeout=120)


def body_of(model: str, count: int) -> dict[str, Any]:
    greedy = {"temperature": 0, "max_tokens": count, "ignore_eos": True, "return_token_ids": True}
    return {"model": model, "prompt": PROMPT, **greedy}


def ids_of(yard: Yard, model: str) -> list[int]:
    response = post(yard, "completions", **body_of(model, LENGTH))
    assert response.status_code == 200, response.text
    ids: list[int] = response.json()["choices"][0]["token_ids"]
    assert len(ids) == LENGTH
    return ids


def check(adapters: Adapters, model: str, ids: list[int]) -> None:
    params = Params(max_tokens=len(ids), temperature=0.0)
    adapters.references[model].check(PROMPT, ids, params)


def check_all(yard: Yard, adapters: Adapters, *models: str) -> None:
    """All of them at once, twice each, so that both workers compute mixed batches."""
    with ThreadPoolExecutor(8) as threads:
        asked = list(models) * 2
        for model, ids in zip(asked, threads.map(lambda model: ids_of(yard, model), asked), strict=True):
            check(adapters, model, ids)


def load(yard: Yard, name: str, **more: Any) -> None:
    response = post(yard, "load_lora_adapter", lora_name=name, lora_path=name, **more)
    assert (response.status_code, response.text) == (200, f"Success: LoRA adapter '{name}' added successfully.")


def held(yard: Yard) -> list[list[str]]:
    """What each ready worker has."""
    return [row["adapters"] for row in yard.status()["workers"] if row["state"] == "ready"]


def test_adapters_come_change_and_go(yard: Yard, adapters: Adapters) -> None:
    assert post(yard, "load_lora_adapter", key="wrong", lora_name="x", lora_path="one").status_code == 401
    wait_until(lambda: held(yard) == [["given"]] * 2, "the given adapter in both workers")
    check_all(yard, adapters, BASE, "given")
    load(yard, "one")
    load(yard, "two")
    assert held(yard) == [["given", "one", "two"]] * 2
    check_all(yard, adapters, BASE, "given", "one", "two")
    listed = httpx.get(f"{yard.url}/v1/models", headers={"authorization": "Bearer secret"}).json()["data"]
    assert {one["id"]: one["parent"] for one in listed} == {BASE: None, "given": BASE, "one": BASE, "two": BASE}

    refused = post(yard, "load_lora_adapter", lora_name="one", lora_path="two")
    assert refused.status_code == 400
    assert "already been loaded" in refused.json()["error"]["message"]
    refused = post(yard, "load_lora_adapter", lora_name="four", lora_path="two")
    assert refused.status_code == 400
    assert "3 adapters are loaded" in refused.json()["error"]["message"]
    assert post(yard, "load_lora_adapter", lora_name="four", lora_path="../..").status_code == 400

    before = ids_of(yard, "one")
    adapters.make("one", 9)
    assert ids_of(yard, "one") == before, "files alone change nothing"
    load(yard, "one", load_inplace=True)
    check_all(yard, adapters, BASE, "given", "one", "two")
    assert ids_of(yard, "one") != before

    gone = post(yard, "unload_lora_adapter", lora_name="two")
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'two' removed successfully.")
    assert post(yard, "completions", **body_of("two", 4)).status_code == 404
    assert post(yard, "unload_lora_adapter", lora_name="two").status_code == 404
    assert held(yard) == [["given", "one"]] * 2


def test_a_stream_with_an_adapter_survives_its_worker(yard: Yard, adapters: Adapters) -> None:
    """Then the broker dies, too; and workers that come back come back with their adapters."""
    ids: list[int] = []
    headers = {"authorization": "Bearer secret"}
    url = f"{yard.url}/v1/completions"
    with httpx.stream("POST", url, json=body_of("one", MANY) | {"stream": True}, headers=headers, timeout=60) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            ids += json.loads(line.removeprefix("data: "))["choices"][0].get("token_ids") or []
            if len(ids) > 40 and len(yard.workers) == 2:
                busy = next(row for row in yard.status()["workers"] if row["running"])
                victim = next(worker for worker in yard.workers if worker.pid == busy["pid"])
                assert len(ids) < MANY
                victim.kill()
                victim.wait()
                yard.workers.remove(victim)
    assert len(ids) == MANY
    check(adapters, "one", ids)
    yard.workers.append(yard.start_worker())
    wait_until(lambda: held(yard) == [["given", "one"]] * 2, "the adapters to be back")
    yard.restart_broker()
    wait_until(lambda: held(yard) == [["given", "one"]] * 2, "a broker that knows them")
    check_all(yard, adapters, BASE, "given", "one")
    older = yard.workers.pop(0)
    older.kill()
    older.wait()
    check_all(yard, adapters, BASE, "given", "one")
