"""The attention kernels' benchmark from end to end at toy size."""

import subprocess
import sys

import attention_bench
import pytest


@pytest.mark.slow
def test_quick_measures_both_kernels() -> None:
    command = [sys.executable, attention_bench.__file__, "--quick", "--heads", "4", "--kv-heads", "2", "--dim", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in row] for row in rows if row[0].strip().isdigit() or "Triton" in row[0]]
    assert [tuple(row[:2]) for row in found[:2]] == [("1", "20"), ("2", "40")]
    assert [tuple(row[:3]) for row in found[2:] if row[0] == "Triton"] == [
        ("Triton", "20", "0"),
        ("Triton", "40", "20"),
    ]
    assert all(float(row[-3].replace(",", "")) > 0 for row in found)
