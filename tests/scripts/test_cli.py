"""The command line: quick, and a mistake is one clear message with status 2."""

import subprocess
import sys

import pytest

PROBE = """
import sys
from tokenyard.scripts import cli
heavy = {"torch", "transformers", "zmq", "rich", "fastapi", "uvicorn"} & set(sys.modules)
assert not heavy, heavy
"""


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "tokenyard.scripts.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_nothing_heavy_is_imported_for_help() -> None:
    subprocess.run([sys.executable, "-c", PROBE], check=True)


def test_version() -> None:
    assert command("version").stdout == "0.1.0\n"


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
        (["serve", "--run-dir", "/tmp/" + "x" * 100], "too long for a unix socket"),
        (["worker"], "MODEL_SPEC"),
        (["serve", "--log-level", "loud"], "'loud' is not one of"),
        (["sing"], "sing"),
    ],
)
def test_a_mistake_is_told(arguments: list[str], words: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_status_without_a_pool_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    done = command("status", "--run-dir", str(tmp_path_factory.mktemp("none")))
    assert done.returncode == 2
    assert "no broker answers" in done.stderr
