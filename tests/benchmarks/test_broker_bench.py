"""The benchmark of the broker's core, from end to end."""

import re
import subprocess
import sys

import broker_bench


def test_every_size_is_measured() -> None:
    command = [
        sys.executable,
        broker_bench.__file__,
        "--sizes",
        "1,20",
        "--jobs",
        "1000",
        "--before",
        "0",
        "--rounds",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for size in (1, 20):
        assert re.search(rf"\| +{size} \| +[\d.]+ µs \| +[\d.]+× \| +[\d.]+ µs", done.stdout), done.stdout
        assert re.search(rf"\| +{size} \| a front joins +\| +[\d.]+ ms", done.stdout), done.stdout
