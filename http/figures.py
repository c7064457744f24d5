"""What one front has counted and timed since it started: plain numbers that any request may add to.

Not prometheus-client's own: for several fronts those live in mapped files, where the figures of one token take 3.6 µs
instead of 0.4 (measured). metrics.py shows these in Prometheus's words. Must not know HTTP or sockets.
"""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import orjson

Labels = tuple[str, ...]

# fmt: off
FIRST_TOKEN_S = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
BETWEEN_TOKENS_S = (.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 10, 20, 40, 80)
WHOLE_S = (.1, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
LOAD_S = (.25, .5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
# fmt: on
"""Upper bounds in seconds: vLLM's, with a few below them, as a small model on a CPU is quicker than its first."""


class Figure(NamedTuple):
    """One figure's meaning."""

    help: str
    labels: Labels
    bounds: tuple[float, ...] = ()
    """Of a histogram; none: a counter."""


MODEL = ("model_name",)
FIGURES: dict[str, Figure] = {
    "request_success": Figure("Jobs that ended well; each choice of a request is one.", (*MODEL, "finished_reason")),
    "request_failure": Figure("Jobs that did not, by error code; cancelled: the client left.", (*MODEL, "code")),
    "request_resumes": Figure("Attempts after a job's first: its worker or broker was lost.", MODEL),
    "prompt_tokens": Figure("Tokens of prompts.", MODEL),
    "generation_tokens": Figure("Tokens received from workers.", MODEL),
    "http_requests": Figure("Answers, by route and status; 499: the client left.", ("method", "path", "status")),
    "time_to_first_token_seconds": Figure("From the submission of a job to its first token.", MODEL, FIRST_TOKEN_S),
    "inter_token_latency_seconds": Figure("Between two tokens of a job.", MODEL, BETWEEN_TOKENS_S),
    "e2e_request_latency_seconds": Figure("From the submission of a job that ended well to its end.", MODEL, WHOLE_S),
    "refused_messages": Figure("Messages between processes that were refused, by whom and why.", ("by", "reason")),
    "model_loads": Figure("Models that were waited for, by how it ended: up, or why not.", (*MODEL, "outcome")),
    "model_load_seconds": Figure("From the first request that waited for a model to the model.", MODEL, LOAD_S),
}


class Histogram:
    """How often a value fell at or below each bound, and above the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Figures:
    """All of one front, by figure and labels."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[Labels]] = defaultdict(Counter)
        self.histograms: defaultdict[str, dict[Labels, Histogram]] = defaultdict(dict)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        self.counts[name][labels] += by

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The one to observe into; keep it where there is much to observe."""
        known = self.histograms[name]
        if labels not in known:
            known[labels] = Histogram(FIGURES[name].bounds)
        return known[labels]

    def dump(self) -> bytes:
        """As JSON, for `absorb` in another process."""
        counts = {name: [[*labels, count] for labels, count in one.items()] for name, one in self.counts.items()}
        histograms = {
            name: [[*labels, one.counts, one.total] for labels, one in known.items()]
            for name, known in self.histograms.items()
        }
        return orjson.dumps({"counts": counts, "histograms": histograms})

    def absorb(self, dumped: bytes) -> None:
        """Add what another has dumped. Raises ValueError where that is no dump of this version."""
        given: dict[str, Any] = orjson.loads(dumped)
        for name, counts in given["counts"].items():
            for *labels, count in counts:
                self.count(name, *labels, by=count)
        for name, known in given["histograms"].items():
            for *labels, counts, total in known:
                mine = self.histogram(name, *labels)
                mine.counts = [one + other for one, other in zip(mine.counts, counts, strict=True)]
                mine.total += total


class JobMeter:
    """Times one job. Exactly one `end`."""

    __slots__ = ("_began_s", "_between", "_counts", "_figures", "_labels", "_last_s", "_model", "_num_tokens")

    def __init__(self, figures: Figures, model: str, num_prompt: int) -> None:
        self._figures = figures
        self._model = model
        self._labels = (model,)
        self._between = figures.histogram("inter_token_latency_seconds", model)
        self._counts = figures.counts["generation_tokens"]
        self._began_s = self._last_s = time.monotonic()
        self._num_tokens = 0
        figures.count("prompt_tokens", model, by=num_prompt)

    def tokens(self, count: int) -> None:
        """So many have come at once: the time since the last is shared among them."""
        now = time.monotonic()
        if self._num_tokens:
            self._between.observe((now - self._last_s) / count, count)
        else:
            self._figures.histogram("time_to_first_token_seconds", self._model).observe(now - self._began_s)
        self._num_tokens += count
        self._counts[self._labels] += count
        self._last_s = now

    def end(self, reason: str = "", code: str = "") -> None:
        """Over: with a finish reason, or else an error code."""
        figures = self._figures
        if code:
            return figures.count("request_failure", self._model, code)
        figures.histogram("e2e_request_latency_seconds", self._model).observe(time.monotonic() - self._began_s)
        return figures.count("request_success", self._model, reason)
