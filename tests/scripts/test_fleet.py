"""scripts/fleet.sh on real processes, and what it starts."""

import os
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from served import GONE_S
from yard import free_port, wait_until

from tokenyard.scripts.plan import fleet_commands

ROOT = Path(__file__).resolve().parents[2]
FLEET = """
[model.tiny]
source = "demo"

[[worker]]
model = "tiny"
device = "cpu"
threads = 1

[front]
port = {port}
count = {count}
"""


def write(folder: Path, port: int, count: int = 1) -> Path:
    path = folder / "my fleet.toml"
    path.write_text(FLEET.format(port=port, count=count))
    return path


def test_each_process_has_its_command(tmp_path: Path) -> None:
    path = write(tmp_path, 9000, count=2)
    commands = {name: shlex.split(line) for name, line in fleet_commands(path, Path("/run"))}
    shared = ["--config", str(path), "--run-dir", "/run"]
    loading = ["--evict", "idle", "--model-timeout", "300", "--load-timeout", "600"]
    assert commands == {
        "broker": ["broker", *loading, "--run-dir", "/run", "--log-level", "info"],
        "front-0": ["front", "--port", "9000", *shared],
        "front-1": ["front", "--port", "9001", *shared],
        "agent": ["agent", *shared],
    }


class Fleet:
    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.file = write(folder, self.port)
        self.num_workers = 1

    def do(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "TOKENYARD_RUN_DIR": str(self.run_dir)}
        line = [str(ROOT / "scripts" / "fleet.sh"), *arguments]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)

    def pids(self) -> list[int]:
        return [int(path.read_text()) for path in self.run_dir.glob("*.pid")]

    def is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/ready", timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answer.json()["workers"] == self.num_workers

    def chat(self, model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
        return str(httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60).json()["model"])

    def survivors(self) -> list[psutil.Process]:
        """Every process that was started in this run directory, and lives."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self.run_dir) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.do("down")


@pytest.mark.slow
def test_a_fleet_of_two_models_comes_up_heals_and_ends_whole(fleet: Fleet) -> None:
    example = (ROOT / "scripts" / "fleet.example.toml").read_text()
    fleet.file.write_text(example.replace("port = 8000", f"port = {fleet.port}"))
    fleet.num_workers = len(tomllib.loads(example)["worker"])
    up = fleet.do("up", str(fleet.file))
    assert up.returncode == 0, up.stderr
    assert len(fleet.pids()) == 3
    wait_until(fleet.is_ready, "the fleet to be ready")
    assert fleet.do("up", str(fleet.file)).stdout.count("is up already") == 3
    models = [model["id"] for model in httpx.get(f"{fleet.url}/v1/models").json()["data"]]
    assert sorted(models) == ["demo", "demo-bf16"]
    assert [fleet.chat(model) for model in models] == models

    status = fleet.do("status")
    assert status.returncode == 0, status.stderr
    assert f"{fleet.num_workers} workers, 1 front, 1 agent" in status.stdout
    for name in ("broker", "front-0", "agent"):
        assert any(line.startswith(name) and line.endswith("up") for line in status.stdout.splitlines())

    whole = {process.pid for process in fleet.survivors()}
    agent = int((fleet.run_dir / "agent.pid").read_text())
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: len(fleet.survivors()) == 2, "the agent's workers to end with it", GONE_S)
    healed = fleet.do("up", str(fleet.file))
    assert healed.returncode == 0, healed.stderr
    assert healed.stdout.count("is up already") == 2
    assert "started agent" in healed.stdout
    wait_until(lambda: len(fleet.survivors()) == len(whole) and fleet.is_ready(), "the fleet to be whole again")
    assert [fleet.chat(model) for model in models] == models

    down = fleet.do("down")
    assert down.returncode == 0, down.stderr
    assert fleet.pids() == []
    assert not fleet.survivors()


def test_usage_is_told(fleet: Fleet) -> None:
    done = fleet.do("sideways")
    assert done.returncode == 2
    assert "up FLEET.toml | status | down" in done.stderr


def test_a_mistake_in_the_file_is_told(fleet: Fleet) -> None:
    fleet.file.write_text("[[worker]]\nmodel = 'demo'\n")
    done = fleet.do("up", str(fleet.file))
    assert done.returncode == 2
    told = f"{fleet.file} line 1: [[worker]] 1 gpu: either gpu = NUMBER or device = 'cpu' is needed"
    assert done.stderr.endswith(f"tokenyard: {told}\n")
    assert fleet.pids() == []


@pytest.mark.slow
def test_two_boxes(fleet: Fleet, tmp_path: Path) -> None:
    """The worked example of docs/operations.md, on loopback: each box knows no more than its own file and keys."""
    keys = tmp_path / "keys"
    made = tokenyard("keys", str(keys), "--name", "box2")
    assert made.returncode == 0, made.stderr
    broker = f"tcp://127.0.0.1:{free_port()}"
    fleet.file.write_text(f'[front]\nport = {fleet.port}\n[pool]\nbind = "{broker}"\nkeys = "{keys}"\n')
    (tmp_path / "box2").mkdir()
    box2 = Fleet(tmp_path / "box2")
    worker = FLEET.partition("[front]")[0]
    box2.file.write_text(f'{worker}[pool]\nbroker = "{broker}"\nkeys = "{keys / "for" / "box2"}"\n')
    try:
        assert box2.do("up", str(box2.file)).returncode == 0, "the order does not matter"
        assert fleet.do("up", str(fleet.file)).returncode == 0
        assert len(box2.pids()) == 1
        wait_until(fleet.is_ready, "the fleet to be ready")
        assert fleet.chat("tiny") == "tiny"
        for box in (fleet, box2):
            status = box.do("status")
            assert status.returncode == 0, status.stderr
            assert "1 worker, 1 front, 2 agents" in status.stdout
            assert "cpu at 127.0.0.1:" in status.stdout
        assert box2.do("down").returncode == 0
        wait_until(lambda: not fleet.is_ready(), "the front to hear of it")
    finally:
        box2.do("down")


def tokenyard(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "tokenyard.scripts.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)
