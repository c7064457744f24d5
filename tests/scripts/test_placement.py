"""Which workers a model gets, and where."""

import os

import pytest
from typer.testing import CliRunner

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import OPTIONS
from tokenyard.scripts.cli import app
from tokenyard.scripts.placement import (
    Model,
    WorkerRow,
    choose_devices,
    find_gpus,
    parse_gpus,
    parse_model,
    place,
    share_cores,
)
from tokenyard.workers.options import WorkerOptions

A, B = Model("a"), Model("b")


def places(rows: list[WorkerRow]) -> list[tuple[str, str]]:
    return [(row.spec, row.place) for row in rows]


def test_one_model_gets_all_gpus() -> None:
    assert places(place([A], [0, 1], None)) == [("a", "cuda:0"), ("a", "cuda:1")]


def test_models_share_the_gpus() -> None:
    assert places(place([A, B], [0, 1, 2], None)) == [("a", "cuda:0"), ("a", "cuda:1"), ("b", "cuda:2")]


def test_every_model_gets_a_worker() -> None:
    assert places(place([A, B], [0], None)) == [("a", "cuda:0"), ("b", "cuda:0")]


def test_replicas_go_before_workers_before_the_devices() -> None:
    assert places(place([Model("a", replicas=1), B], [0, 1, 2, 3], 2)) == [
        ("a", "cuda:0"),
        ("b", "cuda:1"),
        ("b", "cuda:2"),
    ]


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(1, 1, 1), (2, 1, 1), (2, 2, 1), (4, 1, 3), (4, 3, 1), (9, 2, 4)]
)
def test_cpu_workers_share_the_cores_but_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr("tokenyard.scripts.cores.quotas", lambda membership, groups: [])
    rows = share_cores(place([A], [None], workers))
    assert [row.engine for row in rows] == [{"threads": threads}] * workers


def test_who_says_how_many_threads_has_them() -> None:
    assert share_cores(place([Model("a", engine={"threads": 7})], [None], None))[0].engine == {"threads": 7}
    assert share_cores(place([A], [0], None))[0].engine == {}


@pytest.mark.parametrize("value", [True, False])
def test_a_worker_reads_the_arguments_that_it_is_given(monkeypatch: pytest.MonkeyPatch, value: bool) -> None:
    """Every key of an engine, switches both ways."""
    heard: list[WorkerOptions] = []
    monkeypatch.setattr("tokenyard.workers.main.run", heard.append)
    words = {"dtype": "float16", "quantization": "int8", "kv_memory": "1GiB", "speculate": "ngram:4"}
    engine = {key: words.get(key, value if option.kind is bool else 7) for key, option in OPTIONS.items()}
    done = CliRunner().invoke(app, WorkerRow("a", "cpu", None, engine).arguments())
    assert done.exit_code == 0, done.output
    assert {key: getattr(heard[0], key) for key in engine} == engine


def test_a_worker_reads_what_its_spec_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nearer to the model than an option beside it."""
    heard: list[WorkerOptions] = []
    monkeypatch.setattr("tokenyard.workers.main.run", heard.append)
    line = ["worker", "a,pin,dtype=bfloat16,compile=false", "--dtype", "float16", "--threads", "2"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert (heard[0].dtype, heard[0].compile, heard[0].threads) == ("bfloat16", False, 2)


def test_arguments_of_a_worker() -> None:
    row = WorkerRow("a,name=n", "cuda", 3, {"max_model_len": 512, "dtype": "float16"})
    assert row.arguments() == [
        *("worker", "a,name=n", "--device", "cuda", "--gpu", "3"),
        *("--max-model-len", "512", "--dtype", "float16"),
    ]


def test_a_spec_loses_what_is_no_single_workers_matter() -> None:
    spec = "org/model,replicas=3,file=x.gguf,pin,quantization=int8,eager"
    assert parse_model(spec) == Model("org/model,file=x.gguf,pin", 3, {"quantization": "int8", "eager": True})
    assert parse_model("org/model@abc,name=x,name=y,replicas=2") == Model("org/model@abc,name=x,name=y", 2)
    assert parse_model("org/model") == Model("org/model", None)


@pytest.mark.parametrize("text", ["", "a", "0,", "0;1", "-1", "0,1,00"])
def test_bad_gpus_are_refused(text: str) -> None:
    with pytest.raises(SetupError, match="--gpus"):
        parse_gpus(text)


def test_gpus_are_chosen() -> None:
    assert choose_devices("auto", parse_gpus("1,0")) == [1, 0]
    assert choose_devices("cpu", None) == [None]
    with pytest.raises(SetupError, match="exclude each other"):
        choose_devices("cpu", [0])


def test_gpus_that_are_hidden_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda path: ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpus() == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_gpus() == [1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-4f2a")
    with pytest.raises(SetupError, match="only numbers"):
        find_gpus()
