"""Adapters on the command line and in tokenyard.toml: what each process of the pool is told of them."""

from pathlib import Path
from typing import Any

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.broker.wire import Adapter
from tokenyard.http.catalog.adapters import AdapterPolicy
from tokenyard.scripts.loras import LoraSpec, offered, parse_lora
from tokenyard.scripts.plan import Plan, Wishes, make_plan


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    directory = tmp_path / "my,lora"
    directory.mkdir()
    (directory / "adapter_config.json").write_text("{}")
    return directory


def plan(path: Path | None = None, **wishes: Any) -> Plan:
    return make_plan(Wishes(device="cpu", **wishes), path)


def test_a_lora_reads_and_writes_the_same(lora: Path) -> None:
    spec = parse_lora(f"sql,source={lora},base=org/m")
    assert spec == LoraSpec("sql", str(lora), "org/m")
    assert parse_lora(str(spec)) == spec
    assert parse_lora("sql,base=m,source=me/sql@v2") == LoraSpec("sql", "me/sql@v2", "m")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sql", "the key source is missing"),
        (",source=me/sql", "a name is needed"),
        ("sql,source=me/sql,rank=3", "unknown key 'rank'"),
        ("sql,source=me/sql,base=m,source=x", "'source' is given twice"),
        ("sql,source=/there/is/none", "there is no directory /there/is/none"),
        ("sql,source=.", "has no adapter_config.json"),
    ],
)
def test_mistakes_name_the_key(text: str, words: str) -> None:
    if "rank" in text:  # a source may hold commas, but this looks like a key
        text = "sql,rank=3,source=me/sql"
    with pytest.raises(SetupError, match=words):
        parse_lora(text)


def test_broker_workers_and_fronts_are_told(lora: Path, tmp_path: Path) -> None:
    texts = [f"sql,source={lora}", "cook,source=me/cook,base=mine"]
    made = plan(specs=["org/m,name=mine", "demo"], loras=[texts[0] + ",base=org/m", texts[1]], lora_dir=lora.parent)
    assert made.loras == [Adapter("sql", "mine", str(lora)), Adapter("cook", "mine", "me/cook")]
    assert [row.engine.get("max_loras") for row in made.workers] == [2, None]
    given = made.broker_arguments(tmp_path)
    assert offered([given[at + 1] for at, one in enumerate(given) if one == "--lora"]) == tuple(made.loras)
    assert "--max-loras" in made.worker_arguments(tmp_path, made.workers[0])
    front = made.front_arguments(tmp_path, 3, 0)
    assert offered([front[at + 1] for at, one in enumerate(front) if one == "--lora"]) == tuple(made.loras)
    assert front[front.index("--lora-dir") + 1] == str(lora.parent)
    assert any("max_loras=2" in spec for spec in made.policy.named), "an on-demand load of it has room, too"


def test_room_that_is_asked_for_goes_before(lora: Path) -> None:
    made = plan(loras=[f"sql,source={lora}"], engine={"max_loras": 8})
    assert made.loras[0].base == "tokenyard-demo"
    assert made.workers[0].engine["max_loras"] == 8


def test_a_file_says_the_same(lora: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenyard.toml"
    path.write_text(
        f"""
        [model.mine]
        source = "org/m"
        max_lora_rank = 64
        [lora.sql]
        source = "{lora}"
        base = "mine"
        [lora.cook]
        source = "me/cook"
        [front]
        allow_loras = ["me/*"]
        """
    )
    made = plan(path, loras=["cook,source=me/other-cook"])
    assert made.loras == [Adapter("cook", "mine", "me/other-cook"), Adapter("sql", "mine", str(lora))]
    assert made.workers[0].engine["max_loras"] == 2
    assert made.lora_policy == AdapterPolicy(None, ("me/*",))
    path.write_text(path.read_text().replace('base = "mine"', 'bass = "mine"'))
    with pytest.raises(SetupError, match=r"line 7: \[lora.sql\] bass: unknown key"):
        plan(path)
    path.write_text(path.read_text().replace("bass", "base").replace(str(lora), "/there/is/none"))
    with pytest.raises(SetupError, match=r"\[lora.sql\]: source: there is no directory"):
        plan(path)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"specs": ["a/b", "c/d"], "loras": ["x,source=me/x"]}, "adapter x: the key base is missing"),
        ({"specs": ["a/b"], "loras": ["x,source=me/x,base=c/d"]}, "no model 'c/d' with room for adapters is named"),
        ({"specs": ["a/b,name=x"], "loras": ["x,source=me/x"]}, "adapter x: this is the name of a model"),
        ({"loras": ["x,source=me/x", "x,source=me/y"]}, "adapter x is given twice"),
        ({"lora_dir": Path("/there/is/none"), "engine": {"max_loras": 1}}, "there is no such directory"),
        ({"lora_dir": Path(".")}, "give --max-loras, too"),
        ({"allow_loras": ["any"], "host": "0.0.0.0"}, "give an --api-key"),
        ({"allow_loras": ["; rm"], "engine": {"max_loras": 1}}, "patterns of Hub names"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_the_start(wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        plan(**wishes)


def test_a_base_that_comes_on_demand_needs_room_for_all() -> None:
    made = plan(loras=["x,source=me/x,base=a/b"], allow_models=["a/*"], engine={"max_loras": 1})
    assert made.loras == [Adapter("x", "a/b", "me/x")]
