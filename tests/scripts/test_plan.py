"""The command line's wishes over the file, and the file over the defaults."""

from pathlib import Path

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.http.catalog.policy import Policy
from tokenyard.scripts.on_demand import OnDemand
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


def test_a_spec_goes_before_what_is_wished_for_all(tmp_path: Path) -> None:
    """Which goes before a file's table."""
    wishes = {"engine": {"threads": 1, "quantization": "int8"}}
    made = plan(FILE, tmp_path, specs=["org/c,quantization=off", "org/d"], **wishes)
    assert [row.engine["quantization"] for row in made.workers] == ["off", "int8"]
    made = plan(FILE.replace('dtype = "float16"', 'quantization = "int4"'), tmp_path, **wishes)
    assert made.workers[0].engine["quantization"] == "int8"


def test_placed_workers_are_as_the_file_has_them(tmp_path: Path) -> None:
    made = plan(PLACED, tmp_path, device="auto", engine={"dtype": "float32"})
    assert made.workers == [WorkerRow("org/b", "cpu", None, {"threads": 2, "dtype": "float32"})]
    with pytest.raises(SetupError, match=r"do not go with \[\[worker\]\] tables"):
        plan(PLACED, tmp_path, num_workers=2)


def test_one_more_worker_goes_to_the_least_used_device(tmp_path: Path) -> None:
    made = plan(FILE, tmp_path, device="cuda", gpus=[0, 1])
    busy = [WorkerRow("x", "cuda", 0)]
    engine = {"threads": 1}
    assert made.place_one("a", "", busy) == WorkerRow("org/a,name=a", "cuda", 1, {"dtype": "float16"} | engine)
    assert made.place_one("org/d", "cuda:0", busy) == WorkerRow("org/d", "cuda", 0, engine)
    assert made.place_one("org/e,threads=3", "cuda:0", busy) == WorkerRow("org/e", "cuda", 0, {"threads": 3})
    with pytest.raises(SetupError, match="no device 'cpu' here; there are cuda:0, cuda:1"):
        made.place_one("a", "cpu", busy)


def test_api_keys_stay_out_of_the_arguments(tmp_path: Path) -> None:
    made = plan(None, tmp_path, api_keys=["secret", "other"])
    assert made.front_environment() == {"TOKENYARD_API_KEY": "secret other"}
    assert "secret" not in " ".join(made.front_arguments(tmp_path, 3, 0))
    with pytest.raises(SetupError, match="API key"):
        plan(None, tmp_path, api_keys=["two words"])


def test_the_store_is_told_to_every_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--store" not in plan(None, tmp_path).front_arguments(tmp_path, 3, 0)
    for given, told in (("off", "off"), ("kept.db", str(tmp_path / "kept.db"))):
        arguments = plan(None, tmp_path, store=given).front_arguments(tmp_path, 3, 0)
        assert arguments[arguments.index("--store") + 1] == told
    assert plan('[front]\nstore = "off"', tmp_path).store == "off"


@pytest.mark.parametrize(
    "specs",
    [
        ["{}/a/m", "{}/b/m"],
        ["org/m@v1", "org/m@v2"],
        ["org/a,name=x", "org/b,name=x"],
        ["org/a,name=x,name=chat", "org/b,name=y,name=chat"],
        ["org/a,name=x,name=chat", "org/a,name=y,name=chat"],
        ["org/m,file=q4.gguf", "org/m,file=q8.gguf"],
        ["org/m,dtype=float16", "org/m,dtype=float32"],
    ],
)
def test_two_models_of_one_name_are_refused(tmp_path: Path, specs: list[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "m").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"the name '(m|org/m|x|chat)' would stand for .* and for "):
        plan(None, tmp_path, specs=[spec.format(tmp_path) for spec in specs])


def test_one_model_in_two_kinds_of_weights_is_refused(tmp_path: Path) -> None:
    row = "[[worker]]\nmodel = 'org/b'\ndevice = 'cpu'\n"
    with pytest.raises(SetupError, match="org/b in int8"):
        plan(f"{row}{row}quantization = 'int8'", tmp_path, device="auto")
    assert len(plan(f"{row}{row}max_model_len = 512", tmp_path, device="auto").workers) == 2


def test_one_model_may_be_named_in_many_ways(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    same = plan(None, tmp_path, specs=[str(tmp_path / "m"), f"{tmp_path}/./m", "org/m", "org/m,name=other"])
    assert len(same.workers) == 4
    with pytest.raises(SetupError, match="the name 'm' would stand for"):
        same.place_one("org/x,name=m", "", same.workers)


def test_origins_reach_the_fronts(tmp_path: Path) -> None:
    assert plan(None, tmp_path).cors_origins == ["*"]
    file = "[front]\ncors_origins = ['https://a.example', 'http://localhost:3000']"
    made = plan(file, tmp_path)
    assert made.cors_origins == ["https://a.example", "http://localhost:3000"]
    arguments = made.front_arguments(tmp_path, 3, 0)
    assert [arguments[index + 1] for index, one in enumerate(arguments) if one == "--cors-origin"] == made.cors_origins
    assert plan(file, tmp_path, cors_origins=["https://b.example"]).cors_origins == ["https://b.example"]


def test_tool_formats_reach_the_fronts(tmp_path: Path) -> None:
    assert plan(None, tmp_path).tool_formats == []
    made = plan("[front]\ntool_formats = ['hermes', 'org/chat=kimi']", tmp_path)
    arguments = made.front_arguments(tmp_path, 3, 0)
    formats = [arguments[index + 1] for index, one in enumerate(arguments) if one == "--tool-format"]
    assert formats == ["hermes", "org/chat=kimi"]
    assert plan(None, tmp_path, tool_formats=["glm"]).tool_formats == ["glm"]
    with pytest.raises(SetupError, match="a tool format is one of deepseek-v3, "):
        plan(None, tmp_path, tool_formats=["chat=qwen9"])


@pytest.mark.parametrize("origin", ["localhost:3000", "https://a.example/", "https://a.example/app", "", 3])
def test_what_is_no_origin_is_refused(tmp_path: Path, origin: object) -> None:
    with pytest.raises(SetupError, match="an origin is SCHEME"):
        plan(None, tmp_path, cors_origins=[origin])


def test_what_may_be_asked_for(tmp_path: Path) -> None:
    """What is named; with nothing named and on loopback, what was downloaded before; else what is said."""
    made = plan(None, tmp_path)
    assert made.policy == Policy(("demo,threads=1",), ("cached",))
    assert plan(None, tmp_path, host="0.0.0.0", api_keys=["k"]).policy.allow == ()
    assert plan(None, tmp_path, default=None).policy == Policy()
    named = plan(FILE, tmp_path, engine={"trust_remote_code": True})
    assert named.policy == Policy(("org/a,name=a,dtype=float16,trust_remote_code",), (), None, True)
    assert plan(FILE, tmp_path, specs=["org/c"]).policy.named == (
        "org/c,threads=1",
        "org/a,name=a,dtype=float16,threads=1",
    )
    assert plan(FILE, tmp_path, specs=["org/c,name=a,replicas=2"]).policy.named == ("org/c,name=a,threads=1",)
    given = plan(f"[front]\nallow_models = ['Qwen/*']\nmodels_dir = '{tmp_path}'", tmp_path)
    assert (given.policy.allow, given.policy.models_dir) == (("Qwen/*",), tmp_path)
    assert plan(None, tmp_path, allow_models=["any"]).policy.allow == ("*",)
    assert plan(None, tmp_path, allow_models=["none"]).policy.allow == ()
    assert plan(None, tmp_path, allow_models=["a/*, cached", "b"]).policy.allow == ("a/*", "cached", "b")


def test_the_policy_reaches_the_fronts(tmp_path: Path) -> None:
    engine = {"trust_remote_code": True, "dtype": "bfloat16", "quantization": "int8"}
    made = plan(FILE, tmp_path, allow_models=["Qwen/*,b/?"], models_dir=tmp_path, engine=engine)
    arguments = made.front_arguments(tmp_path, 3, 0)
    begin = arguments.index("--allow-models")
    assert arguments[begin : begin + 11] == [
        *("--allow-models", "Qwen/*,b/?", "--models-dir", str(tmp_path)),
        *("--named", "org/a,name=a,dtype=bfloat16,quantization=int8,trust_remote_code", "--trust-remote-code"),
        *("--dtype", "bfloat16", "--quantization", "int8"),
    ]
    assert "--allow-models none" in " ".join(plan(FILE, tmp_path).front_arguments(tmp_path, 3, 0))


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"allow_models": ["any,Qwen/*"]}, "'any' of models that are allowed stands alone"),
        ({"allow_models": ["none", "cached"]}, "'none' of models that are allowed stands alone"),
        ({"allow_models": ["Qwen /*"]}, "not by 'Qwen /\\*'"),
        ({"allow_models": ["a,,b"]}, "not by ''"),
        ({"models_dir": Path("/nowhere/models")}, "--models-dir /nowhere/models: there is no such directory"),
    ],
)
def test_what_no_policy_can_be(tmp_path: Path, wishes: dict[str, object], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        plan(None, tmp_path, **wishes)


def test_processes_stand_by_where_there_is_something_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not make_plan(Wishes(), None).standby
    assert not make_plan(Wishes(specs=["demo"]), None).standby
    assert make_plan(Wishes(specs=["demo"], allow_models=["Qwen/*"]), None).standby
    assert make_plan(Wishes(specs=["demo"], models_dir=tmp_path), None).standby
    (tmp_path / "models--org--name").mkdir()
    assert make_plan(Wishes(), None).standby
    assert not make_plan(Wishes(on_demand=OnDemand(standby=False)), None).standby
