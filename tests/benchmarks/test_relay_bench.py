"""The relay benchmark from end to end: real processes, tiny numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import relay_bench

SCENES = [relay_bench.ONE_PLAIN, relay_bench.FRONTS, relay_bench.FEW, relay_bench.DISPATCH]
"""All that is unlike what tests/e2e/test_relay.py plays."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.faults  # a dozen seconds of relaying; test_relay.py plays the same scenes
def test_quick_makes_tables_where_they_belong(tmp_path: Path) -> None:
    docs, out = tmp_path / "page.md", tmp_path / "figures.json"
    docs.write_text(f"before\n{relay_bench.BEGIN}\nold\n{relay_bench.END}\nafter\n")
    command = [
        sys.executable,
        relay_bench.__file__,
        "--quick",
        "--scenes",
        ",".join(SCENES),
        "--docs",
        str(docs),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("the same, plain front", "more than they can relay", "worker's step → client", "submit in the front"):
        assert f"| {words}" in done.stdout
    assert docs.read_text() == f"before\n{relay_bench.BEGIN}\n\n{done.stdout}\n{relay_bench.END}\nafter\n"
    scenes = json.loads(out.read_text())["scenes"]
    assert list(scenes) == SCENES
    for name, one in scenes.items():
        assert one["tally"]["num_right"] == one["scene"]["num_streams"], name
        if one["scene"]["num_fronts"] == 1:
            assert 0 < one["tally"]["latencies_ms"][0] <= one["tally"]["latencies_ms"][1]
            assert 0 < one["hop_us"][0] <= one["hop_us"][1]


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(relay_bench.END + relay_bench.BEGIN)
    with pytest.raises(ValueError, match="no marks"):
        relay_bench.put("tables", page)
    assert page.read_text() == relay_bench.END + relay_bench.BEGIN


def test_an_unknown_scene_is_refused_by_name() -> None:
    with pytest.raises(relay_bench.typer.BadParameter, match="none of one,"):
        relay_bench.main(scenes="all")
