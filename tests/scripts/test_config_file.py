"""tokenyard.toml and FLEET.toml: what they may say, and how a mistake is told."""

from pathlib import Path

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec, parse_spec
from tokenyard.scripts.config_file import read_config
from tokenyard.scripts.placement import Model, WorkerRow

EXAMPLE = Path(__file__).resolve().parents[2] / "scripts" / "fleet.example.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "pool.toml"
    path.write_text(text)
    return path


def test_models_workers_and_front(tmp_path: Path) -> None:
    config = read_config(
        write(
            tmp_path,
            """
            [model.big]
            source = "org/big"
            revision = "v1"
            replicas = 2
            max_model_len = 4096
            [[worker]]
            model = "big"
            gpu = 1
            dtype = "bfloat16"
            [[worker]]
            model = "org/small,name=small"
            device = "cpu"
            [front]
            port = 9000
            count = 2
            """,
        )
    )
    assert config.models == {"big": Model("org/big@v1,name=big", 2, {"max_model_len": 4096})}
    assert config.workers == [
        WorkerRow("org/big@v1,name=big", "cuda", 1, {"max_model_len": 4096, "dtype": "bfloat16"}),
        WorkerRow("org/small,name=small", "cpu", None),
    ]
    assert config.front == {"port": 9000, "count": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "pool.toml: "),
        ("[modell.x]", r"pool.toml: unknown table \[modell\]"),
        ("model = 3", "pool.toml: model: a table belongs here, not 3"),
        ("[model.x]", r"\[model.x\] lacks the key source"),
        ("[model.x]\nsource = 1", r"\[model.x\] source: a string belongs here, not 1"),
        ("[model.x]\nsource = 'a'\nreplicas = 0", r"\[model.x\] replicas: must be at least 1"),
        ("[model.x]\nsource = 'a'\nreplicas = true", r"\[model.x\] replicas: a whole number belongs here, not True"),
        ("[model.x]\nsource = 'a'\nquantisation = 'int8'", r"\[model.x\] has an unknown key 'quantisation'"),
        ("[[worker]]\ngpu = 0", r"\[\[worker\]\] 1 lacks the key model"),
        ("[[worker]]\nmodel = 'a'", r"\[\[worker\]\] 1 needs either gpu = NUMBER or device = 'cpu'"),
        ("[[worker]]\nmodel = 'a'\ngpu = 0\ndevice = 'cpu'", r"\[\[worker\]\] 1 needs either"),
        ("[[worker]]\nmodel = 'a'\ndevice = 'tpu'", r"\[\[worker\]\] 1 device: choose cpu or cuda, not 'tpu'"),
        ("[[worker]]\nmodel = 'a,file=x.gguf'\ngpu = 0", r"\[\[worker\]\] 1 model: .*'file' is not supported yet"),
        ("[model.x]\nsource = 'org/m@v1'", r"\[model.x\] source: 'org/m@v1' is no directory; a revision is a key"),
        ("[model.'a,b']\nsource = 'org/m'", r"\[model.a,b\]: a name cannot hold commas"),
        ("[model.x]\nsource = 'demo'\nrevision = 'v1'", r"\[model.x\]: .* the bundled model has no revisions"),
        ("[front]\nport = '80'", r"\[front\] port: a whole number belongs here, not '80'"),
    ],
)
def test_mistakes_name_file_table_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        read_config(write(tmp_path, text))


def test_a_source_may_be_a_directory_of_any_name(tmp_path: Path) -> None:
    directory = tmp_path / "m@v1,x"
    directory.mkdir()
    config = read_config(write(tmp_path, f"[model.n]\nsource = '{directory}'"))
    assert parse_spec(config.models["n"].spec) == ModelSpec(str(directory), None, ["n"])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        read_config(tmp_path / "none.toml")


def test_the_example_is_right() -> None:
    assert [row.place for row in read_config(EXAMPLE).workers] == ["cpu"] * 3
