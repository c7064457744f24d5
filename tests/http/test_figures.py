"""What a front counts and times, and that two fronts' figures add up."""

import pytest

from tokenyard.http.figures import FIGURES, Figures, Histogram, JobMeter


def test_a_value_at_a_bound_counts_there() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    histogram.observe(1.5, times=2)
    assert (histogram.counts, histogram.total) == ([2, 4, 1], 17.0)


def test_a_job_is_timed_from_its_submission_to_its_end() -> None:
    figures = Figures()
    meter = JobMeter(figures, "m", 7)
    for count in (1, 1, 3):
        meter.tokens(count)
    meter.end("stop")
    assert figures.counts["prompt_tokens"]["m",] == 7
    assert figures.counts["generation_tokens"]["m",] == 5
    assert figures.counts["request_success"]["m", "stop"] == 1
    observed = {name: sum(known["m",].counts) for name, known in figures.histograms.items()}
    # The first token ends one wait; each of the four after it has one of its own, however many come together.
    assert observed == {
        "time_to_first_token_seconds": 1,
        "inter_token_latency_seconds": 4,
        "e2e_request_latency_seconds": 1,
    }


def test_a_failure_is_no_latency() -> None:
    figures = Figures()
    JobMeter(figures, "m", 7).end(code="queue_full")
    assert figures.counts["request_failure"] == {("m", "queue_full"): 1}
    assert not figures.histograms["e2e_request_latency_seconds"]


def test_figures_add_up_over_processes() -> None:
    one, other = Figures(), Figures()
    for figures in (one, other):
        figures.count("http_requests", "GET", "/", "200")
        figures.histogram("time_to_first_token_seconds", "m").observe(0.003)
    other.count("http_requests", "GET", "/", "404", by=5)
    one.absorb(other.dump())
    assert one.counts["http_requests"] == {("GET", "/", "200"): 2, ("GET", "/", "404"): 5}
    summed = one.histograms["time_to_first_token_seconds"]["m",]
    assert (sum(summed.counts), summed.total) == (2, 0.006)


@pytest.mark.parametrize("bounds", [figure.bounds for figure in FIGURES.values() if figure.bounds])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
