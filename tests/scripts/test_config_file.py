"""tokenyard.toml and FLEET.toml: what they may say, and how a mistake is told."""

import sys
from pathlib import Path

import pytest

from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec, parse_spec
from tokenyard.scripts.cli import main
from tokenyard.scripts.config_file import read_config
from tokenyard.scripts.placement import Model, WorkerRow
from tokenyard.scripts.plan import Wishes, make_plan

EXAMPLE = Path(__file__).resolve().parents[2] / "scripts" / "fleet.example.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "pool.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def test_models_workers_and_front(tmp_path: Path) -> None:
    config = read_config(
        write(
            tmp_path,
            """
            [model.big]
            source = "org/big"
            revision = "v1"
            name = ["huge", "default"]
            max_model_len = 4096
            [model.small]
            source = "org/small"
            file = "small-q8.gguf"
            name = "tiny"
            pin = true
            replicas = 2
            [[worker]]
            model = "big"
            gpu = 1
            dtype = "bfloat16"
            [[worker]]
            model = "org/other,name=other,threads=2"
            device = "cpu"
            [front]
            port = 9000
            count = 2
            """,
        )
    )
    big = "org/big@v1,name=big,name=huge,name=default"
    assert config.models == {
        "big": Model(big, None, {"max_model_len": 4096}),
        "small": Model("org/small,name=small,name=tiny,file=small-q8.gguf,pin", 2),
    }
    assert config.workers == [
        WorkerRow(big, "cuda", 1, {"max_model_len": 4096, "dtype": "bfloat16"}),
        WorkerRow("org/other,name=other", "cpu", None, {"threads": 2}),
    ]
    assert config.front == {"port": 9000, "count": 2}


MODEL = "[model.x]\nsource = 'org/m'\n"
CPU = "[[worker]]\ndevice = 'cpu'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[front]\n\nnonsense\n", "3, column 9: Expected '=' after a key in a key/value pair"),
        ("[front]\nport = [1,\n2", "3: Unclosed array"),
        ("[front]\nport = 1\nport = 2\n", "3, column 9: Cannot overwrite a value"),
        ("[front]\nhost = '\udcff'", "2: it is not UTF-8"),
        (
            "\n[modell.x]",
            "2: [modell]: unknown table; there are [model.NAME], [[worker]], [lora.NAME], [front] and [pool]",
        ),
        ("model = 3", "1: [model]: a table belongs here, not 3"),
        ("[worker]\nmodel = 'demo'", "1: [worker]: a list belongs here, not {'model': 'demo'}"),
        ("[model]\nx = 3", "2: [model.x]: a table belongs here, not 3"),
        (MODEL + "# more\n[model.y]", "4: [model.y]: the key source is missing"),
        ("[model.x]\nsource = 1", "2: [model.x] source: a string belongs here, not 1"),
        (MODEL + "replicas = 0", "3: [model.x] replicas: it must be at least 1"),
        (MODEL + "replicas = true", "3: [model.x] replicas: a whole number belongs here, not True"),
        (MODEL + "pin = 1", "3: [model.x] pin: true or false belongs here, not 1"),
        (MODEL + "\nquantisation = 'int8'", "4: [model.x] quantisation: unknown key; the keys are source, revision"),
        (MODEL + "quantization = 'int3'", "3: [model.x] quantization: choose one of off, int8"),
        (MODEL + "kv_memory = 'lots'", "3: [model.x] kv_memory: give bytes with a unit"),
        (MODEL + "speculate = 'ngram:0'", "3: [model.x] speculate: give ngram:K"),
        (MODEL + "max_num_seqs = 0", "3: [model.x] max_num_seqs: it must be at least 1"),
        (MODEL + "name = ['a',\n\n 3]\npin = true", "3: [model.x] name: a string or a list of strings belongs here"),
        (MODEL + "name = ['a,b']", "3: [model.x] name: 'a,b' cannot be one"),
        (MODEL + "file = 'x.bin'", "3: [model.x] file: 'x.bin' does not end in .gguf"),
        (MODEL + "revision = ''", "3: [model.x] revision: '' cannot be one"),
        (MODEL + "[model.y]\nsource = 'org/n'\nname = 'x'", "3: [model.y]: the name 'x' would stand for"),
        ("[model.x]\nsource = 'org/m@v1'", "2: [model.x] source: 'org/m@v1' is no directory; a revision is a key"),
        ("[model.x]\nsource = ''", "1: [model.x]: the model's name is missing"),
        ("[model.'a,b']\nsource = 'org/m'", "1: [model.a,b]: a name cannot hold commas"),
        ("[model.x]\nsource = 'demo'\nrevision = 'v1'", "3: [model.x] revision: the bundled model has no revisions"),
        ("model.x = {source = 'org/m',\neager = 1}", "1, column 29: "),  # what TOML 1.0 forbids
        ("model.x.source = 'org/m'\nmodel.x.eager = 1", "2: [model.x] eager: true or false belongs here"),
        ("[[worker]]\ngpu = 0", "1: [[worker]] 1: the key model is missing"),
        ("[[worker]]\nmodel = 'org/m'", "1: [[worker]] 1 gpu: either gpu = NUMBER or device = 'cpu' is needed"),
        ("[[worker]]\nmodel = 'org/m'\ngpu = 0\ndevice = 'cpu'", "4: [[worker]] 1 device: either"),
        ("[[worker]]\nmodel = 'org/m'\ngpu = -1", "3: [[worker]] 1 gpu: it must be at least 0"),
        ("[[worker]]\nmodel = 'org/m'\ndevice = 'tpu'", "3: [[worker]] 1 device: choose cpu or cuda, not 'tpu'"),
        (
            CPU + "model = 'demo'\n" + CPU + "model = 'demo,colour'",
            "6: [[worker]] 2 model: model 'demo,colour'",
        ),
        (CPU + "model = 'demo,replicas=2'", "3: [[worker]] 1 model: the model has replicas = 2, but each [[worker]]"),
        (MODEL + "replicas = 2\n" + CPU + "model = 'x'", "6: [[worker]] 1 model: the model has replicas = 2"),
        (CPU + "model = 'y'\n" + MODEL, "3: [[worker]] 1 model: no [model.y] is here (there are x), no such directory"),
        (CPU + "model = 'y'", "3: [[worker]] 1 model: no [model.y] is here (there is none)"),
        (CPU + "model = 'org/m'\n" + CPU + "model = 'org/m'\ndtype = 'float16'", "4: [[worker]] 2: the name 'org/m'"),
        (CPU + "model = 'demo'\nthreads = 0", "4: [[worker]] 1 threads: it must be at least 1"),
        ("[front]\nport = '80'", "2: [front] port: a whole number belongs here, not '80'"),
        ("[front]\nport = 65536", "2: [front] port: it must be at most 65535"),
        ("[front]\ncount = 0", "2: [front] count: it must be at least 1"),
        ("[front]\nhost = 'x'\nprot = 80", "3: [front] prot: unknown key; the keys are host, port, count"),
        ("[front]\napi_keys = ['a b']", "2: [front] api_keys: an API key must be a word without spaces"),
        ("[front]\ncors_origins = [\n  'x',\n]", "2: [front] cors_origins: an origin is SCHEME"),
        ("[front]\ntool_formats = ['y=z']", "2: [front] tool_formats: a tool format is one of"),
        ("[front]\nmax_requests_per_key = 1", "2: [front] max_requests_per_key: --max-requests-per-key counts"),
        ("[front]\nmcp = 'none.json'", "2: [front] mcp: "),
        ("[front]\nssl_certfile = 'none.pem'", "2: [front] ssl_certfile: there is no file"),
        ("[front]\nssl_keyfile = 'none.pem'", "2: [front] ssl_keyfile: --ssl-keyfile needs --ssl-certfile"),
    ],
)
def test_mistakes_name_file_line_table_and_key(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SetupError) as caught:
        make_plan(Wishes(), path)
    assert str(caught.value).startswith(f"{path} line {words}"), caught.value


def test_a_mistake_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MODEL + "pin = 'yes'")
    for command in ("serve", "agent", "front"):
        monkeypatch.setattr(sys, "argv", ["tokenyard", command, "--config", str(path)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert told == f"tokenyard: {path} line 3: [model.x] pin: true or false belongs here, not 'yes'\n"


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
