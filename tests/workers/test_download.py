"""Models come from the Hub with progress, only what is needed of them, and a broken download leaves nothing broken."""

import errno
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import TOKEN, Hub, point_at
from huggingface_hub import constants
from models import DEMO

from tokenyard.broker import hub as hub_contract
from tokenyard.broker.errors import SetupError
from tokenyard.broker.spec import ModelSpec
from tokenyard.workers.download import _sweep, fetch
from tokenyard.workers.model import EngineOptions, load_model

WEIGHTS = "model.safetensors"
SIZE = (Path(DEMO) / WEIGHTS).stat().st_size


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    shutil.copytree(DEMO, tmp_path / "models" / "org" / "tiny")
    with Hub(tmp_path / "models") as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256 << 10)  # 10 MiB, more than the whole model
        yield hub


def get(name: str = "org/tiny", revision: str | None = None, file: str | None = None) -> tuple[str, list[float]]:
    heard: list[float] = []
    return fetch(name, revision, file, heard.append), heard


def partial_files() -> list[Path]:
    return list(hub_contract.cache_root().rglob("*.incomplete"))


def test_what_is_needed_comes_with_progress(hub: Hub) -> None:
    folder = hub.repos["org/tiny"].folder
    for name in ("README.md", "model.onnx", "pytorch_model.bin", "consolidated.safetensors", "original/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not this")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("this")
    commit, heard = get()
    assert commit == hub.repos["org/tiny"].commit
    here = hub_contract.snapshot_dir("org/tiny", commit)
    names = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    assert names == {path.name for path in Path(DEMO).iterdir() if path.is_file()} | {
        "additional_chat_templates/tools.jinja"
    }
    assert (here / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert heard == sorted(heard)
    assert len(heard) > SIZE // (256 << 10)
    assert (heard[-1], heard.count(1.0)) == (1.0, 1)
    before = len(hub.requests)
    assert get() == (commit, [])
    assert get(revision=commit) == (commit, [])
    assert hub.requests[before:] == ["GET /api/models/org/tiny"]


def test_one_file_of_a_repository_of_many(hub: Hub) -> None:
    folder = hub.repos["org/tiny"].folder
    for name in ("tiny-q4.gguf", "tiny-q8.gguf"):
        (folder / name).write_bytes(name.encode() * 1000)
    commit, heard = get(file="tiny-q4.gguf")
    here = hub_contract.snapshot_dir("org/tiny", commit)
    assert (here / "tiny-q4.gguf").is_file()
    assert not (here / WEIGHTS).exists()
    assert not (here / "tiny-q8.gguf").exists()
    assert heard[-1] == 1.0
    with pytest.raises(SetupError, match=r"it has no file none\.gguf; a GGUF file is chosen by ,file=tiny-q4\.gguf"):
        get(file="none.gguf")


def test_a_connection_that_breaks_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.repos["org/tiny"].break_after = SIZE * 2 // 3
    commit, heard = get()
    here = hub_contract.snapshot_dir("org/tiny", commit)
    assert (here / WEIGHTS).read_bytes() == (Path(DEMO) / WEIGHTS).read_bytes()
    assert hub.fetched(WEIGHTS) == 2
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.slow
def test_a_download_that_fails_is_told_and_the_next_try_goes_on(hub: Hub) -> None:
    repo = hub.repos["org/tiny"]
    repo.break_after = 0
    with pytest.raises(SetupError, match="broke off while the model 'org/tiny' was fetched"):
        get()
    assert partial_files() == []
    assert not hub_contract.is_whole("org/tiny", repo.commit)
    repo.break_after = None
    commit, heard = get()
    assert hub_contract.is_whole("org/tiny", commit)
    assert hub.fetched("tokenizer.json") == hub.fetched("config.json") == 1
    assert heard[-1] == 1.0


@pytest.mark.slow
def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(hub: Hub) -> None:
    hub.repos["org/tiny"].bytes_per_s = 1_000_000
    program = "from tokenyard.workers.download import fetch; fetch('org/tiny', None, None, lambda _: None)"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        end = time.monotonic() + 60
        while not (partial_files() and hub.fetched(WEIGHTS)):
            assert time.monotonic() < end
            time.sleep(0.02)
        _sweep("org/tiny")
        assert partial_files()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert partial_files()
    hub.repos["org/tiny"].bytes_per_s = None
    commit, _ = get()
    assert hub_contract.is_whole("org/tiny", commit)
    assert partial_files() == []


def test_without_the_hub_the_cache_serves(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, _ = get()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get() == (commit, [])
    with pytest.raises(SetupError, match="'org/none' is not in the local Hub cache, and HF_HUB_OFFLINE forbids"):
        get("org/none")


def test_a_full_disk_is_told(hub: Hub) -> None:
    error = hub_contract.explain(OSError(errno.ENOSPC, "No space left on device"), "org/tiny")
    assert (error.code, "no space is left in" in error.words) == ("disk_full", True)


def test_a_failure_without_words_is_told_by_its_name() -> None:
    assert hub_contract.explain(TimeoutError(), "org/tiny").words.endswith("cannot be fetched: TimeoutError")


def test_words_for_what_cannot_be_had(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.repos["org/tiny"]
    with pytest.raises(SetupError, match="there is no model 'org/none'"):
        get("org/none")
    with pytest.raises(SetupError, match="has no revision 'v9' on the Hub"):
        get(revision="v9")
    repo.gated = True
    with pytest.raises(SetupError, match="is gated: accept its terms"):
        get()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    repo.claims[WEIGHTS] = 10**16
    with pytest.raises(SetupError, match=r"needs 10,000,000\.0 GB more in .*, where .* are free"):
        get()
    repo.claims.clear()
    assert get()[1][-1] == 1.0
    (repo.folder / WEIGHTS).unlink()
    with pytest.raises(SetupError, match=r"it has no weights called model\.safetensors"):
        get()


@pytest.mark.slow
def test_a_load_begins_with_the_download(hub: Hub) -> None:
    with pytest.raises(SetupError, match="model org/none: there is no model 'org/none' at http"):
        load_model(ModelSpec("org/none"), "cpu", "auto", EngineOptions())
    for first in (0.8, 0.05):
        heard: list[float] = []
        load_model(ModelSpec("org/tiny"), "cpu", "auto", EngineOptions(eager=True), heard.append)
        assert heard == sorted(heard)
        assert first in heard
        assert heard[-1] == 1.0
