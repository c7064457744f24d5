"""The benchmark of encryption between machines."""

import curve_bench
import pytest


@pytest.mark.slow
def test_a_measurement_gives_what_a_message_costs_each_side() -> None:
    assert all(0 < figure < 1e6 for figure in curve_bench.measure("tcp with CURVE", 60, 640))
