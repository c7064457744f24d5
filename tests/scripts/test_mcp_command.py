"""`tokenyard mcp` on real servers and on a running pool, and what is left of servers when its processes are killed."""

import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mcp_servers import SCRIPT
from served import GONE_S, Served
from yard import wait_until

from tokenyard.scripts import cli

pytestmark = [
    pytest.mark.slow,
    # the SDK's stdio client leaves a stream of its own unclosed where a command cannot be started (mcp 1.30)
    pytest.mark.filterwarnings("ignore:Exception ignored in. <function MemoryObject"),
]

TRIAL = {"command": sys.executable, "args": [SCRIPT, "stdio"]}
WITH_GRANDCHILDREN = {
    # one that leaves the process group, one whose parent has ended: both hold the server's pipes
    "command": "/bin/sh",
    "args": ["-c", '(setsid sleep 3600 &) ; sleep 3600 & exec "$0" "$1" stdio', sys.executable, SCRIPT],
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """`tokenyard ARGUMENTS` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["tokenyard", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    gc.collect()  # see pytestmark
    return ended.value.code


def write(path: Path, **servers: Any) -> Path:
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "mcp.json", trial=TRIAL)


def test_list_shows_tools(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "mcp", "list", "--mcp", str(path)) == 0
    shown = capsys.readouterr().out
    assert "trial__get_weather" in shown
    assert "Get the weather of a city." in shown


def test_list_names_a_server_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mcp.json", trial=TRIAL, broken={"command": "/no/such/command"})
    assert run(monkeypatch, "mcp", "list", "--mcp", str(path)) == 1
    shown = capsys.readouterr()
    assert "trial__add" in shown.out
    assert shown.err.startswith("broken: ")


@pytest.mark.parametrize(
    ("tool", "arguments", "status", "words"),
    [
        ("add", '{"a": 2, "b": 3}', 0, "5"),
        ("fail", "{}", 1, "this tool always fails"),
        ("add", "{", 2, "not valid JSON"),
        ("add", "[]", 2, "must be a JSON object"),
    ],
)
def test_call(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tool: str,
    arguments: str,
    status: int,
    words: str,
) -> None:
    assert run(monkeypatch, "mcp", "call", "trial", tool, arguments, "--mcp", str(path)) == status
    shown = capsys.readouterr()
    assert words in shown.out + shown.err


@pytest.mark.parametrize(
    ("command", "text", "words"),
    [
        (
            ["mcp", "check"],
            '{"mcpServers": {"mine": {"colour": 1}}}',
            "mcp.json: server 'mine': unknown field 'colour'",
        ),
        (["mcp", "list"], "{", "not valid JSON"),
        (["mcp", "call", "trial", "add", "{}"], '{"mcpServers": {}}', "there is no server 'trial'"),
        (["serve"], '{"mcpServers": {"mine": {}}}', "server 'mine': needs either a command or a url"),
        (["front"], '{"mcpServers": 1}', "mcpServers must be an object"),
        (["serve", "--host", "0.0.0.0"], '{"mcpServers": {}}', "give an --api-key"),
    ],
)
def test_a_mistake_in_the_file_is_one_message_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    text: str,
    words: str,
) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text)
    assert run(monkeypatch, *command, "--mcp", str(path)) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_a_reload_ends_no_process_that_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A front without an mcp.json, and a pid of another box."""
    line = [sys.executable, "-c", "import sys; sys.stdin.read()", "front"]
    with subprocess.Popen(line, stdin=subprocess.PIPE) as other:
        fronts = [{"pid": other.pid}, {"pid": 1 << 30}]
        monkeypatch.setattr("tokenyard.scripts.mcp_command.pool_status", lambda address: {"fronts": fronts})
        assert run(monkeypatch, "mcp", "reload") == 2
    assert other.returncode == 0
    assert "no front of this pool that has an mcp.json" in capsys.readouterr().err


# On a running pool.


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mcp") / "mcp.json", trial=WITH_GRANDCHILDREN)


@pytest.fixture(scope="module")
def pool(file: Path) -> Iterator[Served]:
    served = Served("--workers", "1", "--mcp", str(file))
    try:
        served.wait_log("mcp server trial is ready")
        yield served.wait_ready()
    finally:
        served.close()


def states(pool: Served) -> dict[str, str]:
    data = httpx.get(f"{pool.url}/v1/mcp/servers", timeout=10).json()["data"]
    return {one["label"]: one["state"] for one in data}


def below(pool: Served) -> list[psutil.Process]:
    """The processes of MCP servers: each front's wrappers and all that they started."""
    found: list[psutil.Process] = []
    for process in pool.process_tree():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it is ending
            if any("http/mcp/child.py" in word for word in process.cmdline()):
                found += [process, *process.children(recursive=True)]
    return found


def sleepers(pool: Served) -> list[psutil.Process]:
    """The grandchildren."""
    found = []
    for process in below(pool):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if process.name() == "sleep" else []
    return found


def wait_gone(processes: list[psutil.Process]) -> None:
    def alive() -> list[psutil.Process]:
        return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    wait_until(lambda: not alive(), "the servers' processes to be gone", GONE_S)


def test_a_reload_brings_a_server_and_a_mistake_changes_nothing(
    pool: Served, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {one.pid for one in below(pool)}
    write(file, trial=WITH_GRANDCHILDREN, second={**TRIAL, "default": False})
    assert run(monkeypatch, "mcp", "reload", "--run-dir", str(pool.run_dir)) == 0
    assert "told 1 front;" in capsys.readouterr().out
    wait_until(lambda: states(pool).get("second") == "ready", "the second server")
    assert before <= {one.pid for one in below(pool)}, "the first one's connection was kept"
    write(file, trial={"command": 1})
    assert run(monkeypatch, "mcp", "reload", "--run-dir", str(pool.run_dir)) == 0
    pool.wait_log("the mcp servers stay as they are: .*server 'trial': command: must be a text")
    assert states(pool) == {"trial": "ready", "second": "ready"}
    write(file, trial=WITH_GRANDCHILDREN)


def test_nothing_of_the_servers_outlives_a_killed_front(pool: Served) -> None:
    (front,) = pool.children("front")
    left = below(pool)
    assert len(sleepers(pool)) == 2
    front.kill()
    wait_gone(left)
    wait_until(lambda: [one.pid for one in pool.children("front")] not in ([], [front.pid]), "another front")


def test_nothing_of_the_servers_outlives_a_killed_supervisor(pool: Served) -> None:
    wait_until(lambda: len(sleepers(pool)) == 2, "the new front's servers")
    left = below(pool)
    pool.process.send_signal(signal.SIGKILL)
    wait_gone(left)
    pool.wait_gone()


def test_nothing_of_the_servers_outlives_a_polite_end(file: Path) -> None:
    served = Served("--workers", "1", "--mcp", str(file))
    try:
        served.wait_log("mcp server trial is ready")
        left = below(served)
        assert len(left) >= 4
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(30)
        assert time.monotonic() - began < 15
        wait_gone(left)
    finally:
        served.close()
