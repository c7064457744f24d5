"""How long Tokenyard takes from its command until it answers: with nothing cached, and again.

    python benchmarks/start_bench.py                     the demo model; qwen3-60m as it is by default, and not compiled

What the first start of a model leaves for later ones is its self-test's verdict and its compiled code.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import Annotated

import typer
from bench_models import find_model
from machine import load_average, machine, today, versions
from peers import Setting, free_port, running, tokenyard
from tables import Cells, markdown, number

STARTS = (("demo", ""), ("qwen3-60m", "--no-compile"), ("qwen3-60m", ""))
"""Models and options. The demo model is too small to be compiled by default."""
HEAD = ["model", "options", "first start", "later"]


def start_s(model: str, options: str) -> float:
    """From the command to the first 200 of /ready; the server is ended again."""
    setting, port = Setting(find_model(model), "cpu", "float32", 1), free_port()
    peer = tokenyard(setting, port, options)
    began_s = time.perf_counter()
    with running(peer, setting, port):
        return time.perf_counter() - began_s


def measure(starts: Sequence[tuple[str, str]], later: int) -> Cells:
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # compiled code would be found there
    cells: Cells = []
    for model, options in starts:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TOKENYARD_CACHE_DIR"] = cache
            first_s, *later_s = [start_s(model, options) for _ in range(1 + later)]
        cells.append([model, options, f"{number(first_s)} s", f"{number(median(later_s))} s"])
    return cells


def main(
    later: Annotated[int, typer.Option(min=1, help="Starts after the first; their median counts.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="The demo model only, to see that it works.")] = False,
) -> None:
    """Measure the starts one after the other and print a table as Markdown."""
    cells = measure(STARTS[:1] if quick else STARTS, later)
    typer.echo(f"{today()}, {machine('cpu')}, load average {load_average()}, {versions()}\n")
    typer.echo(markdown(HEAD, cells))


if __name__ == "__main__":
    typer.run(main)
