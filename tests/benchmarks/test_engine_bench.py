"""The engine's benchmark from end to end on the demo model: our engine only, tiny numbers."""

import json
import subprocess
import sys
from pathlib import Path

import engine_bench
import pytest


@pytest.mark.slow
def test_quick_measures_steps_prompts_and_requests(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, engine_bench.__file__, "--model", "demo", "--quick", "--engines", "ours", "--profile"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "aten::" in done.stdout  # the profile
    found = json.loads(out.read_text())
    shape = engine_bench.QUICK
    wanted = [(batch, context) for context in shape.contexts for batch in shape.batches]
    assert [(row["batch"], row["context"]) for row in found["decodes"]] == wanted
    for row in found["decodes"]:
        assert row["step_ms"] > 0
        assert row["tokens_per_s"] == pytest.approx(row["batch"] / row["step_ms"] * 1e3)
        assert row["bandwidth_share"] > 0
    assert [row["num_tokens"] for row in found["prefills"]] == shape.prompts
    assert [row["num_steps"] for row in found["prefills"]] == [1, 1]
    for rates in (found["same_length"], found["uneven"]):
        assert [row["engine"] for row in rates] == ["ours"]
        assert rates[0]["tokens_per_s"] > 0
    assert found["targets"] == []


def test_settings_are_read_as_json_where_they_are() -> None:
    options = engine_bench.parse_options(["max_num_seqs=8", "eager=true", "kv_memory=1GiB"])
    assert options == {"max_num_seqs": 8, "eager": True, "kv_memory": "1GiB"}
    with pytest.raises(engine_bench.typer.BadParameter, match="name=value"):
        engine_bench.parse_options(["eager"])
