"""Which cells are measured, and what a trace says of a GPU."""

from types import SimpleNamespace
from typing import Any

import pytest
from engine_steps import busy_share, cells, gpu_spans_us


def rig(pool_tokens: int, context_length: int) -> Any:
    return SimpleNamespace(card=SimpleNamespace(pool_tokens=pool_tokens, context_length=context_length, block_size=16))


def test_cells_that_do_not_fit_are_left_out() -> None:
    room_each = 128 + 2 * 4 + 16
    assert list(cells([1, 2, 4], [128], 4, rig(2 * room_each, 512), 10_000)) == [(1, 128), (2, 128)]
    assert list(cells([1, 2, 4], [128, 1024], 4, rig(10_000, 512), 10_000)) == [(1, 128), (2, 128), (4, 128)]
    assert list(cells([1, 2, 4], [128], 4, rig(10_000, 512), 256)) == [(1, 128), (2, 128)]


def test_busy_time_counts_what_overlaps_once() -> None:
    assert busy_share([(0, 10)]) == 1
    assert busy_share([(0, 10), (10, 20), (2, 5)]) == 1
    assert busy_share([(30, 40), (0, 10)]) == pytest.approx(0.5)
    assert busy_share([(0, 10), (5, 15), (20, 30)]) == pytest.approx(25 / 30)


def test_a_device_that_did_nothing_has_no_share() -> None:
    with pytest.raises(ValueError, match="nothing ran"):
        busy_share([])


def test_only_the_gpus_own_events_count() -> None:
    events = [
        {"cat": "kernel", "ts": 5.0, "dur": 2.0},
        {"cat": "cpu_op", "ts": 0.0, "dur": 100.0},
        {"cat": "gpu_memcpy", "ts": 9.0, "dur": 1.0},
        {"ph": "M", "name": "a name without a category"},
    ]
    assert gpu_spans_us({"traceEvents": events}) == [(5.0, 7.0), (9.0, 10.0)]
