"""The command line: quick, and a mistake is one clear message with status 2."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tokenyard.scripts import cli, control
from tokenyard.scripts.tie import MAX_FILES

PROBE = """
import sys
from tokenyard.scripts import cli
heavy = {"torch", "transformers", "zmq", "rich", "fastapi", "uvicorn"} & set(sys.modules)
assert not heavy, heavy
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """`tokenyard ARGUMENTS` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["tokenyard", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_nothing_heavy_is_imported_for_help() -> None:
    subprocess.run([sys.executable, "-c", PROBE], check=True)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "version") == 0
    assert capsys.readouterr().out == "0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--prot", "1"], "--prot"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--gpus", "a"], "--gpus 'a'"),
        (["serve", "--device", "tpu"], "'tpu' is not one of"),
        (["serve", "demo,nme=x"], "unknown key 'nme'"),
        (["serve", "--api-key", ""], "an API key must be a word"),
        (["serve", "--config", "/nowhere.toml"], "/nowhere.toml: No such file"),
        (["serve", "--port", "0", "--run-dir", "/tmp/" + "x" * 100], "too long for a unix socket"),
        (["serve", "--quantization", "int3"], "--quantization: choose one of off, int8"),
        (["serve", "--kv-memory", "lots"], "--kv-memory: give bytes"),
        (["worker"], "MODEL_SPEC"),
        (["worker", "demo", "--speculate", "medusa"], "--speculate: give ngram:K"),
        (["worker", "demo", "--dtype", "float8"], "--dtype: choose one of auto"),
        (["serve", "--log-level", "loud"], "'loud' is not one of"),
        (["sing"], "sing"),
    ],
)
def test_a_mistake_is_told(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.out == ""


def test_status_without_a_pool_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.3)
    assert run(monkeypatch, "status", "--run-dir", str(tmp_path)) == 2
    assert "no broker answers" in capsys.readouterr().err


def test_a_process_may_have_as_many_files_open_as_the_kernel_allows_it() -> None:
    code = (
        "import resource; from tokenyard.scripts import cli; limit = resource.RLIMIT_NOFILE; "
        "resource.setrlimit(limit, (256, resource.getrlimit(limit)[1])); "
        "cli.app = lambda: print(resource.getrlimit(limit)[0]); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(done.stdout) == (MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)) > 256
