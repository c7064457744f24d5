"""The run directory, and timers that must fit one another."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tokenyard.broker import config
from tokenyard.broker.config import RunDir, default_run_dir
from tokenyard.broker.errors import KINDS, SetupError, TokenyardError


def test_it_is_made_private(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "a" / "b").create()
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700
    assert run_dir.create() == run_dir, "one that exists is fine"


def test_one_that_is_open_to_others_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(SetupError, match="chmod 700"):
        RunDir(tmp_path / "open").create()


def test_a_path_too_long_for_a_socket_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="shorter"):
        RunDir(tmp_path / ("x" * 100)).create()


def test_one_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="--run-dir"):
        RunDir(tmp_path / "file" / "run").create()


def test_every_endpoint_fits_where_create_agreed(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    longest = max(run_dir.front_endpoint, run_dir.work_endpoint, run_dir.tokens_endpoint(bytes(8)), key=len)
    assert longest == run_dir.tokens_endpoint(bytes(8))


def test_a_lock_is_taken_once_and_freed_by_death(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    descriptor = run_dir.lock("broker")
    with pytest.raises(SetupError, match="another broker"):
        run_dir.lock("broker")
    other = run_dir.lock("supervisor")
    os.close(descriptor)
    os.close(other)
    script = (
        "import os, pathlib; from tokenyard.broker.config import RunDir\n"
        f"RunDir(pathlib.Path({str(tmp_path)!r})).lock('broker'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    os.close(run_dir.lock("broker"))


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("TOKENYARD_RUN_DIR", "/somewhere")
    assert default_run_dir() == Path("/somewhere")
    monkeypatch.delenv("TOKENYARD_RUN_DIR")
    assert default_run_dir() == Path("/run/user/7/tokenyard")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_run_dir() == Path(f"/tmp/tokenyard-{os.getuid()}")


def test_timers_fit_one_another() -> None:
    assert 4 * config.BEAT_S < config.SILENCE_S, "several beats may go missing"
    assert 2 * config.SUBMIT_REPEAT_S < config.GRACE_S, "a repeated submit claims its attempt within the grace"
    assert config.RECONNECT_MAX_MS / 1000 < config.GRACE_S, "peers find a new broker within the grace"
    assert config.UNSUBSCRIBED_S < config.SILENCE_S
    assert config.MAX_FINISH_BYTES < config.MAX_MESSAGE_BYTES


def test_an_error_must_be_one_of_the_table() -> None:
    with pytest.raises(AssertionError):
        TokenyardError("no_such_code", "")
    error = TokenyardError("queue_full", "words", retry_ms=5)
    assert (error.code, error.retry_ms, KINDS[error.code].status, str(error)) == ("queue_full", 5, 429, "words")
