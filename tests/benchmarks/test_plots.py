"""Charts are made of a run's own figures; drawing itself needs matplotlib, which tests do not."""

from typing import Any

from plots import Line, charts, lines_by

CONDITIONS = {
    "date": "2026-01-01",
    "machine": "a box",
    "model": "qwen3-60m",
    "dtype and device": "float32 on cpu",
    "lengths": "60 in, 64 out",
    "steps": "median of 16",
    "versions": "torch 1",
}


def test_rows_become_a_line_for_each_series() -> None:
    rows = [{"s": "b", "x": 1, "y": 5}, {"s": "a", "x": 1, "y": 7}, {"s": "b", "x": 2, "y": 6}]
    assert lines_by(rows, "s", "x", "y") == [Line("b", [1, 2], [5, 6]), Line("a", [1], [7])]


def test_serving_gives_rates_and_seconds_with_what_must_stand_beside() -> None:
    rows = [{"server": "ours", "concurrency": c, "tokens_per_s": 10.0 * c, "ttft_p50_ms": 500.0} for c in (1, 8)]
    figures: dict[str, Any] = {"conditions": CONDITIONS, "levels": rows}
    rate, first = charts(figures)
    assert rate.lines == [Line("ours", [1, 8], [10, 80])]
    assert first.lines == [Line("ours", [1, 8], [0.5, 0.5])]
    for fact in ("a box", "2026-01-01", "60 in, 64 out", "float32 on cpu"):
        assert fact in rate.note


def test_steps_come_with_the_least_time_that_bandwidth_allows() -> None:
    cells = [{"context": 128, "batch": batch, "step_ms": 20.0, "bandwidth_share": 0.25} for batch in (1, 4)]
    prompts = [{"num_tokens": 64, "tokens_per_s": 100.0}]
    steps, prefill = charts({"conditions": CONDITIONS, "decodes": cells, "prefills": prompts})
    assert steps.lines == [
        Line("context 128", [1, 4], [20, 20]),
        Line("context 128: bandwidth alone", [1, 4], [5, 5], dashed=True),
    ]
    assert prefill.lines == [Line("one prompt alone", [64], [100])]
