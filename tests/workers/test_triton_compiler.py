"""The kernels compile for GPUs that are not here: the interpreter takes programs that Triton's compiler refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "absent_gpu.py"
SHARED_BYTES = {90: 227 << 10, 120: 99 << 10}
"""Shared memory that one program may take, by compute capability (technical specifications of the CUDA C++ guide)."""


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "kind"), [(90, "common"), (120, "large")])
def test_kernels_compile_and_fit(capability: int, kind: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, str(SCRIPT), str(capability), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    taken = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _ in taken} == {"_write", "_attend_split", "_join_splits", "_attend_tile"}
    for name, shared in taken:
        assert int(shared) <= SHARED_BYTES[capability], f"{name} takes {shared} bytes"
