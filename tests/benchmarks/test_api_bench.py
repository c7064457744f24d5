"""The benchmark of the API layer, from end to end."""

import re
import subprocess
import sys

import api_bench
import pytest


@pytest.mark.slow
def test_every_api_is_timed() -> None:
    command = [sys.executable, api_bench.__file__, "--requests", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for name in api_bench.bodies(0):
        assert re.search(rf"\| {name} +\| +[\d.]+ ms \| +[\d.]+ ms \|", done.stdout), done.stdout
