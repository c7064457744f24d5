"""What is read from the times of many requests."""

import pytest
from engine_rig import Place
from offline import fold, run, steady_gaps_ms, throughput, uneven
from offline_run import Ask, Errand, Outcome, warm_up

STAGGERED = Outcome([[1.0, 2.0, 3.0, 5.0, 6.0], [2.5, 3.5, 5.5, 6.5], [3.0, 5.0, 6.0, 8.0]])
"""From 3.0, when the last begins, to 6.0, when the first ends, all three decode."""


def test_steady_gaps_are_those_while_all_decode() -> None:
    assert sorted(steady_gaps_ms(STAGGERED)) == [1000, 1000, 2000, 2000, 2000]


def test_rates_are_medians_over_all_tokens_until_the_last() -> None:
    assert throughput(STAGGERED) == 13 / 8
    twice = fold("ours", [STAGGERED, Outcome([[1.0], [2.0]])])
    assert twice.tokens_per_s == (13 / 8 + 1) / 2
    assert twice.tokens_per_s_range == (1, 13 / 8)
    assert twice.gap_ms == 2000
    assert fold("ours", [Outcome([[1.0], [2.0]])]).gap_ms is None


def test_uneven_lengths_are_the_same_each_time_and_in_their_range() -> None:
    asks = uneven(200, 10, 20)
    assert asks == uneven(200, 10, 20)
    assert {ask.num_prompt for ask in asks} == {ask.num_new for ask in asks} == set(range(10, 21))


def test_the_warm_up_is_as_wide_and_as_long() -> None:
    asks = [Ask(100, 50), Ask(5, 50)]
    assert warm_up(asks) == [Ask(8, 8), Ask(5, 8), Ask(100, 8)]


def test_a_process_that_fails_is_quoted() -> None:
    place = Place("/nowhere/at/all", "cpu", "float32", 1, {})
    with pytest.raises(RuntimeError, match="no such directory"):
        run(Errand("ours", place, [Ask(4, 4)], 0.1))
