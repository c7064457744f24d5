"""The benchmark of cold starts from end to end on the demo model."""

import re
import subprocess
import sys

import pytest
import start_bench


@pytest.mark.slow
def test_quick_times_the_first_start_and_a_later_one() -> None:
    command = [sys.executable, start_bench.__file__, "--quick", "--later", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| demo +\| +\| +[\d.]+ s \| +[\d.]+ s \|", done.stdout), done.stdout
