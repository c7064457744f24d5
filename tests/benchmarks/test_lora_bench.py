"""The adapters' benchmark from end to end on the demo model, at toy size."""

import subprocess
import sys

import lora_bench
import pytest


@pytest.mark.slow
def test_every_case_is_measured() -> None:
    size = ["--batches", "3", "--prompt", "32", "--rounds", "1", "--steps", "2", "--adapters", "2", "--rank", "4"]
    command = [sys.executable, lora_bench.__file__, "--model", "demo", "--kv-memory", "64MiB", *size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    (cells,) = [row for row in rows if row[0] == "decode of 3"]
    assert [cell.split(" ")[1] for cell in cells[1:]] == ["ms"] * 4
    assert all(float(cell.split(" ")[0]) > 0 for cell in cells[1:])
