"""Pieces of late work come between steps, and hold up nobody for long."""

import pytest

from tokenyard.workers.leisure import HEAD_START_S, MOST_SHARE, PATIENCE_S, Demand, Leisure

PIECE_S = 0.03
STEP_S = 0.02


def share_of(demand: Demand, piece_s: float = PIECE_S, step_s: float = STEP_S) -> float:
    """The share of a minute that pieces take beside steps that always have this to do."""
    leisure, now, spent_s = Leisure(0.0), 0.0, 0.0
    while now < 60:
        if leisure.due_s(demand) <= now:
            leisure.did(now, now + piece_s)
            now += piece_s
            spent_s += piece_s
        now += step_s
    return spent_s / (60 - HEAD_START_S)


@pytest.mark.parametrize("demand", Demand)
def test_the_first_tokens_come_before_it(demand: Demand) -> None:
    assert Leisure(100.0).due_s(demand) == pytest.approx(100 + HEAD_START_S)


@pytest.mark.parametrize("piece_s", [0.001, 0.03, 0.5])
def test_streams_lose_no_more_than_their_share(piece_s: float) -> None:
    assert MOST_SHARE / 2 < share_of(Demand.STREAMS, piece_s, step_s=piece_s / 3) <= MOST_SHARE


def test_where_first_tokens_are_waited_for_it_is_rare_but_comes() -> None:
    assert 0 < share_of(Demand.PROMPTS) <= 1.1 * PIECE_S / PATIENCE_S
    assert share_of(Demand.PROMPTS, piece_s=3.0) <= 1.1 * MOST_SHARE, "a long piece is followed by a long pause"


def test_where_nobody_waits_it_goes_on_at_once() -> None:
    leisure = Leisure(0.0)
    leisure.did(3.0, 4.0)
    assert leisure.due_s(Demand.NOTHING) <= 4.0
    assert leisure.due_s(Demand.STREAMS) > 4.0
