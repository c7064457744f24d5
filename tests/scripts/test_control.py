"""What `tokenyard status` shows."""

from typing import Any

from rich.console import Console

from tokenyard.scripts.control import status_table


def shown(*loads: dict[str, int], endpoint: str = "ipc:///run/x/w-ab.sock") -> list[list[str]]:
    """The table's words, line by line, of workers that differ in their load only."""
    row: dict[str, Any] = {
        "inc": "ab" * 8,
        "name": "demo",
        "pid": 17,
        "state": "ready",
        "models": ["demo"],
        "device": "cpu",
        "capacity": 64,
        "running": 3,
        "step": 1234,
        "silent_s": 0.25,
        "tokens_per_s": 812.4,
        "restarts": 2,
        "endpoint": endpoint,
        "words": "",
    }
    body = {"workers": [{**row, "load": load} for load in loads], "fronts": [], "agents": [], "loads": [], "posts": []}
    body |= {"adapters": [], "models": {"demo": {"queued": 0}}}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_table(body, "/run/x"))
    return [line.split() for line in capture.get().splitlines()]


def test_a_pool_without_speculation() -> None:
    counts, titles, line = shown({"running": 3, "device_bytes": 300 << 20})
    assert counts[-1] == "/run/x"
    numbers = ["RUNNING", "TOKENS/S", "MEMORY", "STEPS", "RESTARTS", "SILENT"]
    assert titles == ["WORKER", "PID", "STATE", "MODEL", "DEVICE", *numbers]
    assert line == ["abababab", "17", "ready", "demo", "cpu", "3/64", "812", "300", "MiB", "1,234", "2", "0.2", "s"]


def test_deaths_and_hung_workers_are_told_below_the_table() -> None:
    row = {
        "inc": "ab" * 8,
        "name": "demo",
        "pid": 17,
        "models": ["demo"],
        "device": "cpu",
        "capacity": 64,
        "running": 3,
        "endpoint": "ipc:///run/x/w-ab.sock",
    }
    row |= {"step": 1, "silent_s": 0.2, "tokens_per_s": 0.0, "restarts": 2, "load": {}}
    hung = {**row, "state": "hung", "words": "step 2 lasts for 61 s"}
    agents = [{"troubles": ["worker 0 died once, last at 12:00:00: SIGKILL from outside"]}]
    loads = [{"model": "big", "words": "it waits for a device", "waiting_s": 3.2}]
    posts = [{"inc": "ab" * 8, "pinned": True}]
    body = {"workers": [hung], "fronts": [], "agents": agents, "loads": loads, "posts": posts}
    body["adapters"] = [{"name": "sql", "base": "demo", "state": "loaded", "words": ""}]
    body["models"] = {"demo": {"queued": 1200}}
    group = status_table(body, "/run/x")
    console = Console(width=200)
    with console.capture() as capture:
        console.print(group)
    *_, line, first, queue, second, third, fourth = capture.get().splitlines()
    assert "hung, pinned" in line
    assert first == "abababab is hung: step 2 lasts for 61 s"
    assert queue == "demo: 1,200 in the broker's queue"
    assert second == agents[0]["troubles"][0]
    assert third == "big: it waits for a device, for 3 s now"
    assert fourth == "adapter sql of demo: loaded"


def test_how_much_was_guessed_and_how_much_of_it_was_right() -> None:
    _, titles, first, second, third = shown({"guessed": 4000, "confirmed": 1000}, {"guessed": 0, "confirmed": 0}, {})
    assert titles[-2:] == ["GUESSED", "RIGHT"]
    assert first[-2:] == ["4,000", "25%"]
    assert second[-2:] == ["s", "0"]
    assert third[-1] == "s"


def test_a_worker_on_tcp_is_shown_with_its_address() -> None:
    _, _, line = shown({}, endpoint="tcp://10.0.0.2:40000")
    assert line[4:8] == ["cpu", "at", "10.0.0.2:40000", "3/64"]
