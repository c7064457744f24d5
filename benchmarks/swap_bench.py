"""How long a request waits whose model is not up, and what other models' streams notice of that.

    python benchmarks/swap_bench.py      the demo model is up, qwen3-60m is asked for; `transformers serve` beside us

Each server runs once for all its rounds; between them the model that was asked for is unloaded, or makes room for the
demo model again. The kernel has the files in memory throughout, and a model's verdict and compiled code are on disk
after the first round, which is left out.
"""

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import httpx
import typer
from bench_models import DEMO, find_model
from machine import load_average, machine, today, versions
from peers import DEFAULT_NAME, OUR_NAME, Peer, Server, Setting, free_port, running
from tables import Cells, markdown, number

THREADS = 1
HEAD = ["server", "request to first token", "other's ITL p50", "p99 before", "p99 meanwhile", "worst"]
NEIGHBOUR_TOKENS = 4000
"""Of the stream that runs meanwhile: longer than any load."""
CALM_S = 4.0
"""The neighbour runs so long before the other model is asked for, and so long its ITL is what it is without."""
UNLOADED_S = 6.0
"""Above Policy.residence_s of broker/room.py: whoever is up for less does not make room."""


class Found(NamedTuple):
    """Of one round, in seconds."""

    first_token_s: float
    gaps_before: list[float]
    gaps_during: list[float]


def stream(server: Server, body: dict[str, Any], on_token: Callable[[float], bool]) -> None:
    """Call `on_token` with the time of each event that carries text; False ends the stream."""
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=600) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{server.peer.name}: HTTP {response.status_code}: {response.read().decode()[:500]}")
        for line in response.iter_lines():
            event = json.loads(line[6:]) if line.startswith("data: {") else {}
            if any(choice.get("text") for choice in event.get("choices", [])) and not on_token(time.perf_counter()):
                return


def first_token_s(server: Server, model: str) -> float:
    times: list[float] = []

    def note(now: float) -> bool:
        times.append(now)
        return False

    began_s = time.perf_counter()
    stream(server, {**server.body("Hello", 4), "model": model}, note)
    return times[0] - began_s


def with_neighbour(server: Server, neighbour: str, model: str) -> Found:
    """Ask for a model while another one's stream runs."""
    times: list[float] = []
    ended = threading.Event()

    def note(now: float) -> bool:
        times.append(now)
        return not ended.is_set()

    body = {**server.body("Once upon a time", NEIGHBOUR_TOKENS), "model": neighbour}
    thread = threading.Thread(target=stream, args=(server, body, note))
    thread.start()
    time.sleep(CALM_S)
    asked_s = time.perf_counter()
    waited_s = first_token_s(server, model)
    ended.set()
    thread.join()
    gaps = [(now, now - before) for before, now in pairwise(times)]
    before = [gap for now, gap in gaps if now <= asked_s]
    during = [gap for now, gap in gaps if asked_s < now <= asked_s + waited_s]
    return Found(waited_s, before, during)


def tokenyard(setting: Setting, models: Path, port: int, *more: str) -> Peer:
    command = [sys.executable, "-m", "tokenyard.scripts.cli", "serve", "demo,name=neighbour", "--port", str(port)]
    command += ["--models-dir", str(models), "--device", setting.device, "--dtype", setting.dtype]
    return Peer(OUR_NAME, [*command, "--threads", str(setting.threads), *more], "/ready", True)


def transformers_serve(setting: Setting, port: int) -> Peer:
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", setting.device, "--dtype", setting.dtype]
    return Peer(DEFAULT_NAME, command, "/health", False)


def unload(server: Server, model: str) -> None:
    if server.peer.is_ours:
        url = f"http://127.0.0.1:{server.port}/v1/models/unload"
        httpx.post(url, json={"model": model}, timeout=60).raise_for_status()


def rounds(
    peer: Peer, setting: Setting, port: int, count: int, neighbour: str, model: str, beside: bool
) -> list[Found]:
    """The first round, which fills the caches, is left out."""
    found = []
    with running(peer, setting, port) as server:
        first_token_s(server, neighbour)
        for _ in range(count + 1):
            time.sleep(UNLOADED_S)  # the standby process of the next load is up by then
            if beside:
                found.append(with_neighbour(server, neighbour, model))
                unload(server, model)
            else:
                found.append(Found(first_token_s(server, model), [], []))
                time.sleep(UNLOADED_S)
                first_token_s(server, neighbour)
    return found[1:]


def lives(peer: Peer, setting: Setting, port: int, count: int, neighbour: str, model: str) -> list[Found]:
    """It unloads only after minutes, so each round is a server's life."""
    found = []
    for _ in range(count):
        with running(peer, setting, port) as server:
            first_token_s(server, neighbour)
            found.append(with_neighbour(server, neighbour, model))
    return found


def row(name: str, found: list[Found]) -> list[str]:
    cells = [name, f"{number(median(one.first_token_s for one in found))} s"]
    before, during = ([gap for one in found for gap in gaps(one)] for gaps in (_before, _during))
    if not before:
        return [*cells, "", "", "", ""]
    times = (median(before), percentile(before), percentile(during), max(during, default=0.0))
    return [*cells, *(f"{number(1000 * value)} ms" for value in times)]


def _before(found: Found) -> list[float]:
    return found.gaps_before


def _during(found: Found) -> list[float]:
    return found.gaps_during or [found.first_token_s]  # nothing came at all


def percentile(values: list[float], share: float = 0.99) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def main(
    count: Annotated[int, typer.Option("--rounds", min=1, help="Their median counts.")] = 3,
    model: Annotated[str, typer.Option(help="The model that is asked for.")] = "qwen3-60m",
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option()] = "float32",
    quick: Annotated[bool, typer.Option("--quick", help="Ours alone, one round.")] = False,
) -> None:
    """Measure and print a table as Markdown."""
    path = Path(find_model(model, device))
    setting = Setting("demo", device, dtype, THREADS)
    cells: Cells = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        shutil.copytree(path, models / "asked")
        ways: list[tuple[str, tuple[str, ...], bool]] = [
            ("tokenyard, a device for both (--gpu-share 2)", ("--gpu-share", "2"), True),
            ("tokenyard, the other makes room", (), False),
            ("tokenyard, the other makes room, --no-standby", ("--no-standby",), False),
        ]
        for name, options, beside in ways[:1] if quick else ways:
            port = free_port()
            peer = tokenyard(setting, models, port, *options)
            found = rounds(peer, setting, port, 1 if quick else count, "neighbour", "asked", beside)
            cells.append(row(name, found))
        if not quick:
            port = free_port()
            peer = transformers_serve(setting, port)
            cells.append(row(DEFAULT_NAME, lives(peer, setting, port, count, str(DEMO), str(path))))
    typer.echo(f"{today()}, {machine(device)}, load average {load_average()}, {versions()}")
    typer.echo(f"{model}, {dtype}, {THREADS} engine thread, median of {1 if quick else count}\n")
    typer.echo(markdown(HEAD, cells))


if __name__ == "__main__":
    typer.run(main)
