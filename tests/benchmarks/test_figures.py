"""The arithmetic between records and tables."""

import numpy as np
import pytest
from figures import Stall, gaps_ms, median_stall, percentile, read_stall, summarize, throughput
from hypothesis import given
from hypothesis import strategies as st
from sse_reader import Record


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1), percent=st.floats(0, 100))
def test_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-6)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def stream(sent_s: float, *chunks_s: float, num_tokens: int | None = None) -> Record:
    return Record(sent_s, list(chunks_s), chunks_s[-1] + 0.5, 10, num_tokens or len(chunks_s))


def test_throughput_spans_from_the_first_request_to_the_last_end() -> None:
    assert throughput([stream(1.0, 2.0, 3.0), stream(1.5, 2.0, 5.5, num_tokens=8)]) == pytest.approx(10 / 5.0)


def test_a_level_folds_its_rounds() -> None:
    calm = [stream(0.0, 0.1, 0.2, 0.3, num_tokens=4)]
    slow = [stream(10.0, 10.4, 10.8, num_tokens=4)]
    level = summarize("one", 2, [calm, slow, slow], server_cpu_s=0.6, client_cpu_share=0.1)
    assert (level.server, level.concurrency, level.num_requests) == ("one", 2, 3)
    assert level.ttft_p50_ms == pytest.approx(400)
    assert level.itl_p50_ms == pytest.approx(250)  # of 100, 100, 400, 400
    assert level.tokens_per_s == pytest.approx(4 / 1.3)
    assert level.tokens_per_s_range == pytest.approx((4 / 1.3, 4 / 0.8))
    assert level.tokens_per_chunk == pytest.approx(12 / 7)
    assert level.server_cpu_ms_per_token == pytest.approx(50)


def test_a_stall_is_the_longest_gap_of_streams_that_ran() -> None:
    running = stream(0.0, 1.0, 1.1, 1.2, 1.9, 2.0, 9.0)
    queued = stream(0.0, 5.0, 8.0)
    ended = stream(0.0, 0.2, 0.9)
    intruder = stream(1.3, 1.95, 1.96)
    stall = read_stall("one", [running, queued, ended], intruder)
    assert stall.num_running == 1
    assert stall.itl_p50_ms == pytest.approx(100)
    assert stall.worst_itl_ms == pytest.approx(700)  # not the seven seconds after the intruder had begun
    assert stall.ttft_ms == pytest.approx(650)


def test_the_median_stall_is_taken_field_by_field() -> None:
    stalls = [Stall("one", 4, 10, 90, 5), Stall("one", 4, 30, 70, 6), Stall("one", 1, 20, 80, 7)]
    assert median_stall(stalls) == Stall("one", 4, 20, 80, 6)


def test_gaps_lie_between_chunks() -> None:
    assert gaps_ms(stream(0.0, 1.0, 1.25, 1.75)) == pytest.approx([250, 500])
