"""The benchmark from end to end, on Tokenyard alone: real processes, tiny numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import serve_bench


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quick_makes_both_tables_and_the_json(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, serve_bench.__file__, "--quick", "--servers", "ours", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| tokenyard ") == 3  # c = 1, c = 4 and the stall
    found = json.loads(out.read_text())
    assert [level["concurrency"] for level in found["levels"]] == serve_bench.QUICK.concurrencies
    for level in found["levels"]:
        assert level["num_prompt_tokens"] == serve_bench.QUICK.prompt_tokens
        assert level["num_tokens"] == serve_bench.QUICK.output_tokens
        assert 0 < level["itl_p50_ms"] <= level["itl_p99_ms"]
    assert found["stalls"][0]["num_running"] == serve_bench.NUM_RUNNING


def test_an_unknown_server_is_refused_by_name() -> None:
    setting = serve_bench.Setting("any", "cpu", "float32", 1)
    with pytest.raises(serve_bench.typer.BadParameter, match="vllm"):
        serve_bench.pick("vllm", setting, 1, "", "")
