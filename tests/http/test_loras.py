"""Adapters over HTTP: which may be loaded, what is asked of the broker, and what requests and lists make of them."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from front import OPTIONS, ask, request, says
from models import CARD
from scripted import ScriptedPool

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.wire import Adapter, AddAdapter, Answer, Card, RemoveAdapter
from tokenyard.http.app import create_app
from tokenyard.http.catalog.adapters import AdapterPolicy
from tokenyard.http.keys import KeyRing
from tokenyard.http.plans import fingerprint
from tokenyard.http.pool import Pool

SQL = Adapter("sql", "demo", "me/sql", 7_000_000_000, "v1")
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def post(pool: ScriptedPool, path: str, body: dict[str, Any], policy: AdapterPolicy | None = None) -> httpx.Response:
    options = replace(OPTIONS, loras=policy or AdapterPolicy(allow=("*",)))
    return asyncio.run(request(create_app(cast(Pool, pool), options), "POST", path, json=body))


def make_adapter(directory: Path, base: str = "") -> Path:
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return directory


def other(name: str = "other") -> Card:
    return CARD._replace(names=[name], source=f"/models/{name}")


# Loading.


def test_answers_are_vllms() -> None:
    pool = ScriptedPool(CARD)
    response = post(pool, LOAD, {"lora_name": "sql", "lora_path": "me/sql"})
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'sql' added successfully.")
    assert response.headers["content-type"].startswith("text/plain")
    (asked,) = pool.asked
    assert isinstance(asked, AddAdapter)
    assert asked.adapter == Adapter("sql", "demo", "me/sql", asked.adapter.stamp)
    assert asked.adapter.stamp > 10**18, "nanoseconds"
    response = post(pool, UNLOAD, {"lora_name": "sql"})
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    assert pool.asked[-1] == RemoveAdapter(1, "sql")


@pytest.mark.parametrize(
    ("code", "more", "status"),
    [
        ("invalid_value", {"param": "lora_path"}, 400),
        ("model_not_found", {}, 404),
        ("pool_unavailable", {}, 503),
        ("what?", {}, 500),
    ],
)
def test_refusals_of_workers_and_broker_have_openais_shape(code: str, more: dict[str, str], status: int) -> None:
    pool = ScriptedPool(CARD)

    async def refuse(question: Any, seconds: float) -> Answer:
        return Answer(1, "rank 99 is too much", {"code": code, **more})

    pool.ask = refuse  # type: ignore[method-assign]
    response = post(pool, LOAD, {"lora_name": "sql", "lora_path": "me/sql"})
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["message"], error["param"]) == ("rank 99 is too much", more.get("param", "lora_name"))
    assert ("retry-after" in response.headers) == (status == 503)


def test_without_an_answer_it_may_be_tried_again() -> None:
    pool = ScriptedPool(CARD)

    async def say_nothing(question: Any, seconds: float) -> None:
        return None

    pool.ask = say_nothing  # type: ignore[method-assign, assignment]
    assert post(pool, UNLOAD, {"lora_name": "sql"}).status_code == 503


def test_a_key_is_needed_where_there_are_keys() -> None:
    app = create_app(cast(Pool, ScriptedPool(CARD)), replace(OPTIONS, api_keys=KeyRing(["secret"])))
    for path in (LOAD, UNLOAD):
        assert asyncio.run(request(app, "POST", path, json={"lora_name": "sql"})).status_code == 401


def test_the_base_is_the_only_model_or_what_the_files_say(tmp_path: Path) -> None:
    policy = AdapterPolicy(tmp_path)
    for name, base in (("one", "/models/other"), ("two", "demo"), ("three", "/somewhere"), ("four", "")):
        make_adapter(tmp_path / name, base)
    (tmp_path / "four" / "adapter_config.json").write_text("[")
    pool = ScriptedPool(CARD, other())
    found = {}
    for name in ("one", "two", "three", "four"):
        response = post(pool, LOAD, {"lora_name": name, "lora_path": name}, policy)
        found[name] = response.json()["error"]["param"] if response.status_code == 400 else response.status_code
    assert found == {"one": 200, "two": 200, "three": "base_model_name", "four": "base_model_name"}
    assert [one.adapter.base for one in cast(list[AddAdapter], pool.asked)] == ["other", "demo"]
    named = {"lora_name": "x", "lora_path": "three", "base_model_name": "alias"}
    assert post(pool, LOAD, named, policy).status_code == 200
    assert cast(AddAdapter, pool.asked[-1]).adapter.base == "demo"
    pool = ScriptedPool(CARD._replace(adapters=[SQL]), other())
    response = post(pool, LOAD, {**named, "base_model_name": "sql"}, policy)
    assert "is an adapter itself" in response.text


# What may be loaded.


def test_directories_are_those_below_one(tmp_path: Path) -> None:
    root = tmp_path / "loras"
    inside, outside = make_adapter(root / "a" / "b"), make_adapter(tmp_path / "outside")
    (root / "link").symlink_to(outside)
    (root / "good-link").symlink_to(inside)
    (root / "empty").mkdir()
    policy = AdapterPolicy(root)
    for path in ("a/b", str(inside), "a/../a/b", "good-link"):
        assert policy.resolve(path) == str(inside)
    for path in ("link", str(outside), "../outside", "a/b/../../../outside", "empty", "/", "\0", "~", "x" * 5000):
        with pytest.raises(TokenyardError, match="under --lora-dir") as failure:
            policy.resolve(path)
        assert (failure.value.code, failure.value.param) == ("invalid_value", "lora_path")


def test_hub_names_are_those_that_are_allowed(tmp_path: Path) -> None:
    make_adapter(tmp_path / "me" / "local")
    policy = AdapterPolicy(tmp_path, ("me/*", "you/one"))
    assert policy.resolve("me/local") == str(tmp_path / "me" / "local")
    assert policy.resolve("me/sql@v2") == "me/sql@v2"
    assert policy.resolve("you/one") == "you/one"
    for path in ("you/two", "me/../you/two", "me/sql@../..", "me/sql/more", "/etc"):
        with pytest.raises(TokenyardError, match=r"Hub names like me/\*, you/one"):
            policy.resolve(path)


def test_without_options_nothing_may_be_loaded(tmp_path: Path) -> None:
    response = post(ScriptedPool(CARD), LOAD, {"lora_name": "x", "lora_path": str(tmp_path)}, AdapterPolicy())
    assert response.status_code == 400
    assert "--lora-dir" in response.json()["error"]["message"]


# Asking for them.


def adapted() -> ScriptedPool:
    pool = ScriptedPool(CARD._replace(adapters=[SQL, SQL._replace(name="cook", stamp=0, version="")]))
    pool.play = says("Hello!")
    return pool


def test_every_api_takes_an_adapters_name() -> None:
    pool = adapted()
    chat = {"model": "sql", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": chat,
        "/v1/messages": chat,
        "/v1/completions": {"model": "sql", "prompt": "hi"},
        "/v1/responses": {"model": "sql", "input": "hi", "store": False},
        "/generate": {"model": "sql", "inputs": "hi"},
        "/tokenize": {"model": "sql", "prompt": "hi"},
    }
    for path, body in bodies.items():
        response = ask(pool, "POST", path, json=body)
        assert response.status_code == 200, response.text
        assert response.json().get("model", "sql") == "sql"
    assert [job.request.model for job in pool.jobs] == ["sql"] * 5
    assert ask(pool, "POST", "/tokenize", json={"prompt": "hi"}).status_code == 200, "adapters are no second model"


def test_lists_have_root_and_parent_as_vllms() -> None:
    pool = adapted()
    data = ask(pool, "GET", "/v1/models").json()["data"]
    shown = [(one["id"], one["root"], one["parent"]) for one in data]
    assert shown == [("demo", CARD.source, None), ("sql", "me/sql", "demo"), ("cook", "me/sql", "demo")]
    one = ask(pool, "GET", "/v1/models/sql").json()
    assert (one["parent"], one["created"], one["context_length"]) == ("demo", 7, CARD.context_length)
    page = ask(pool, "GET", "/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert [model["id"] for model in page["data"]] == ["demo", "sql", "cook"]


def test_fingerprints_tell_adapters_and_their_versions_apart() -> None:
    cards = [CARD, *adapted().adapter_cards(), CARD._replace(names=["sql"], adapters=[SQL._replace(version="v2")])]
    assert len({fingerprint(card) for card in cards}) == 4
