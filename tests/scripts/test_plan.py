"""The command line's wishes over the file, and the file over the defaults."""

from pathlib import Path

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.scripts.placement import WorkerRow
from tokenyard.scripts.plan import Plan, Wishes, make_plan

FILE = """
[model.a]
source = "org/a"
dtype = "float16"
[front]
port = 9000
count = 3
api_keys = ["k1"]
"""
PLACED = """
[[worker]]
model = "org/b"
device = "cpu"
threads = 2
"""


def plan(text: str | None, folder: Path, **wishes: object) -> Plan:
    path = folder / "pool.toml"
    path.write_text(text or "")
    return make_plan(Wishes(**{"device": "cpu", "engine": {"threads": 1}} | wishes), path)  # type: ignore[arg-type]


def test_the_demo_model_is_the_default(tmp_path: Path) -> None:
    made = make_plan(Wishes(device="cpu", engine={"threads": 1}), None)
    assert made.workers == [WorkerRow("demo", "cpu", None, {"threads": 1})]
    assert (made.host, made.port, made.num_fronts, made.api_keys) == ("127.0.0.1", 8000, 1, [])


def test_an_agent_has_no_default(tmp_path: Path) -> None:
    assert plan(None, tmp_path, default=None).workers == []


def test_the_file_goes_before_the_defaults(tmp_path: Path) -> None:
    made = plan(FILE, tmp_path)
    assert [row.spec for row in made.workers] == ["org/a,name=a"]
    assert made.workers[0].engine == {"dtype": "float16", "threads": 1}
    assert (made.port, made.num_fronts, made.api_keys) == (9000, 3, ["k1"])


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    made = plan(FILE, tmp_path, specs=["org/c"], port=0, num_fronts=1, api_keys=["k2"])
    assert [row.spec for row in made.workers] == ["org/c"]
    assert (made.port, made.num_fronts, made.api_keys) == (0, 1, ["k2"])


def test_placed_workers_are_as_the_file_has_them(tmp_path: Path) -> None:
    made = plan(PLACED, tmp_path, device="auto", engine={"dtype": "float32"})
    assert made.workers == [WorkerRow("org/b", "cpu", None, {"threads": 2, "dtype": "float32"})]
    with pytest.raises(SetupError, match=r"do not go with \[\[worker\]\] tables"):
        plan(PLACED, tmp_path, num_workers=2)


def test_one_more_worker_goes_to_the_least_used_device(tmp_path: Path) -> None:
    made = plan(FILE, tmp_path, device="cuda", gpus=[0, 1])
    busy = [WorkerRow("x", "cuda", 0)]
    assert made.place_one("a", "", busy) == WorkerRow("org/a,name=a", "cuda", 1, {"dtype": "float16"})
    assert made.place_one("org/d", "cuda:0", busy) == WorkerRow("org/d", "cuda", 0)
    with pytest.raises(SetupError, match="no device 'cpu' here; there are cuda:0, cuda:1"):
        made.place_one("a", "cpu", busy)


def test_api_keys_stay_out_of_the_arguments(tmp_path: Path) -> None:
    made = plan(None, tmp_path, api_keys=["secret", "other"])
    assert made.front_environment() == {"TOKENYARD_API_KEY": "secret other"}
    assert "secret" not in " ".join(made.front_arguments(tmp_path, 3, 0))
    with pytest.raises(SetupError, match="API key"):
        plan(None, tmp_path, api_keys=["two words"])
