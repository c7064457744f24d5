"""What keeps a pool from starting, or fills its disk later: said in words, and nothing is left behind.

A port that is taken and a model that does not exist are in tests/scripts/test_supervisor.py.
"""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from models import DEMO
from served import Served

pytestmark = pytest.mark.slow

TIME_LIMIT_S = 100
HUGE_ROWS = 1 << 40
"""Of an embedding: 400 TB in float32, more than any address space that a machine would map."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for unix sockets, which tmp_path's is not."""
    with tempfile.TemporaryDirectory(prefix="fault-") as path:
        yield Path(path)


def serve(
    *arguments: str, folder: Path, before: Callable[[], None] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `tokenyard serve` until it gives up; `before` runs in the child."""
    line = [sys.executable, "-m", "tokenyard.scripts.cli", "serve", "--port", "0", "--device", "cpu", "--threads", "1"]
    return subprocess.run(
        [*line, *arguments],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "TOKENYARD_PARENT_PID": str(os.getpid())},
        preexec_fn=before,
        cwd=folder,
    )


def copy_demo(folder: Path) -> Path:
    model = folder / "model"
    shutil.copytree(DEMO, model)
    return model


def change_config(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# A place that cannot be used


def test_an_unwritable_run_directory(folder: Path) -> None:
    """Not by its mode, which does not stop root: nobody can make a directory there."""
    done = serve("--run-dir", "/sys/tokenyard", folder=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("tokenyard: --run-dir /sys/tokenyard: ")
    assert done.stderr.count("\n") == 1


def test_a_file_in_place_of_the_run_directory(folder: Path) -> None:
    (folder / "file").touch()
    done = serve("--run-dir", str(folder / "file"), folder=folder)
    assert done.returncode == 2
    assert done.stderr == f"tokenyard: --run-dir {folder / 'file'}: File exists\n"


def test_a_private_run_directory_that_cannot_be_made() -> None:
    done = serve(folder=Path("/sys"))
    assert done.returncode == 2
    assert done.stderr.startswith("tokenyard: no run directory can be made in /sys: ")


def test_a_full_disk_at_the_start(folder: Path) -> None:
    """No file may have a byte: what a full disk says, but for the name of the error."""
    done = serve(folder=folder, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
    assert done.returncode == 2
    assert done.stderr == f"tokenyard: {folder}/tokenyard/last cannot be written: File too large\n"


@pytest.mark.faults
def test_a_disk_that_fills_up_while_serving(folder: Path) -> None:
    """Responses that cannot be kept are refused in words; all else goes on."""
    served = Served()
    try:
        served.wait_ready()
        (front,) = served.children("front")
        front.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        request = {"model": "tokenyard-demo", "input": "Hello!", "max_output_tokens": 16}
        kept = httpx.post(f"{served.url}/v1/responses", json=request, timeout=60)
        assert kept.status_code == 503, kept.text
        assert kept.json()["error"]["code"] == "store_unavailable"
        assert "Traceback" not in served.log(), served.log()
        passing = httpx.post(f"{served.url}/v1/responses", json={**request, "store": False}, timeout=60)
        assert passing.status_code == 200, passing.text
        front.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert httpx.post(f"{served.url}/v1/responses", json=request, timeout=60).status_code == 200
    finally:
        served.close()


# A model that cannot be loaded


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def broken_config(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "qwen3", ')


def unknown_type(model: Path) -> None:
    change_config(model, model_type="no-such-type")


def encoder_decoder(model: Path) -> None:
    (model / "config.json").write_text(
        json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    )


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def cut_weights(model: Path) -> None:
    path = model / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def garbage_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"these are no weights " * 100)


def other_shapes(model: Path) -> None:
    change_config(model, hidden_size=128)


def too_large(model: Path) -> None:
    """Weights of holes, more of them than memory could ever be had for."""
    path = model / "model.safetensors"
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    name = "model.embed_tokens.weight"
    shape = [HUGE_ROWS // 4096, header[name]["shape"][1]]
    sizes = {key: entry["data_offsets"][1] - entry["data_offsets"][0] for key, entry in header.items()}
    sizes[name] = shape[0] * shape[1] * 2
    header[name]["shape"] = shape
    end = 0
    for key, size in sizes.items():
        header[key]["data_offsets"] = [end, end + size]
        end += size
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    change_config(model, vocab_size=shape[0])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (no_config, "config.json"),
        (broken_config, "config.json"),
        (unknown_type, "no-such-type"),
        (encoder_decoder, "it is no causal language model"),
        (no_weights, "model.safetensors"),
        (cut_weights, "it cannot be loaded"),
        (garbage_weights, "it cannot be loaded"),
        (other_shapes, "it cannot be loaded"),
        (too_large, "memory"),
    ],
)
def test_a_model_directory_that_cannot_be_loaded(folder: Path, harm: Callable[[Path], None], words: str) -> None:
    model = copy_demo(folder)
    harm(model)
    done = serve(str(model), folder=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr, done.stderr
    last_words = next(line for line in done.stderr.splitlines() if f"model {model}" in line)
    assert words in last_words
    assert "worker 0 cannot start as it was told to" in done.stderr
    assert list(folder.glob("tokenyard-run-*")) == []


@pytest.mark.faults
def test_a_file_in_place_of_a_model(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"weights")
    done = serve(str(folder / "weights.bin"), folder=folder)
    assert done.returncode == 2
    assert f"model {folder / 'weights.bin'}: there is no such directory or GGUF file" in done.stderr
