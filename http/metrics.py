"""GET /metrics, in Prometheus's words: what the fronts counted, and the pool as the broker sees it at that moment.

Names are vLLM's where the meaning is, with our prefix. Any front of a supervisor answers for all of them: each writes
what it has counted to a file in the run directory and reads those of the others. Workers' figures cost nothing until
they are asked for: the front then asks the broker, which has them from their beats.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tokenyard.http.figures import FIGURES, Figures, Labels
from tokenyard.http.service import Service

log = logging.getLogger(__name__)

PREFIX = "tokenyard_"
SAVE_S = 1.0
"""Between two writes of a front's figures: below any scrape interval; one write takes about 0.1 ms."""
STATUS_WAIT_S = 1.0
"""A broker answers within a millisecond; one that is being restarted must not make a scrape fail (10 s by default)."""

WORKER = ("worker", "model_name", "device")
GAUGES = {
    "num_requests_running": ("Sequences in the worker's step.", "running"),
    "num_requests_waiting": ("Sequences that wait in the worker.", "waiting"),
    "device_memory_bytes": ("Memory that the worker has taken: of its GPU, else of the machine.", "device_bytes"),
}
COUNTERS = {
    "prefix_cache_queries": ("Tokens of sequences as they were admitted.", "queried_tokens"),
    "prefix_cache_hits": ("Those of them that were found cached.", "hit_tokens"),
    "num_preemptions": ("Sequences whose blocks were taken and that were computed anew.", "preempted"),
    "worker_generation_tokens": ("Tokens drawn.", "emitted_tokens"),
    "link_resends": ("Batches of tokens that fronts asked for again.", "resent_batches"),
    "spec_decode_num_draft_tokens": ("Tokens guessed.", "guessed"),
    "spec_decode_num_accepted_tokens": ("Guesses that were right.", "confirmed"),
}
"""What each worker says of itself: name → (help, key of Beat.load)."""


def add_routes(api: FastAPI, service: Service) -> None:
    pool = service.pool
    files = FigureFiles(service.options.run_dir, service.options.index) if service.options.fd is not None else None
    if files is not None:
        keeper = Keeper(files, pool.figures)
        service.on_start(keeper.start)
        service.on_close(keeper.close)

    @api.get("/metrics")
    async def metrics() -> Response:
        body = await pool.status(STATUS_WAIT_S)
        figures = pool.figures if files is None else await asyncio.to_thread(files.merged, pool.figures.dump())
        return Response(exposition(figures, body), media_type=CONTENT_TYPE_LATEST)


class FigureFiles:
    """The figures of all fronts of one supervisor, in its run directory; a restarted front goes on with its own."""

    def __init__(self, run_dir: Path, index: int) -> None:
        self._run_dir = run_dir
        self._mine = run_dir / f"figures-{index}.json"

    def save(self, dumped: bytes) -> None:
        """Put mine there, whole or not at all."""
        fresh = self._mine.with_suffix(".new")
        fresh.write_bytes(dumped)
        fresh.replace(self._mine)

    def restore(self, figures: Figures) -> None:
        """Add what an earlier life of this front has counted."""
        with suppress(FileNotFoundError):
            _absorb(figures, self._mine)

    def merged(self, dumped: bytes) -> Figures:
        """Mine, as dumped, and those of the others."""
        figures = Figures()
        figures.absorb(dumped)
        for path in sorted(self._run_dir.glob("figures-*.json")):
            if path != self._mine:
                _absorb(figures, path)
        return figures


def _absorb(figures: Figures, path: Path) -> None:
    dumped = path.read_bytes()
    try:
        figures.absorb(dumped)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # another version's
        log.warning("left out %s: %s", path, error)


class Keeper:
    """Saves a front's figures while it runs."""

    def __init__(self, files: FigureFiles, figures: Figures) -> None:
        self._files = files
        self._figures = figures
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._files.restore(self._figures)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(OSError):
            self._files.save(self._figures.dump())

    async def _run(self) -> None:
        saved = b""
        while True:
            dumped = self._figures.dump()
            if dumped != saved:
                saved = dumped
                try:
                    await asyncio.to_thread(self._files.save, dumped)
                except OSError as error:
                    log.warning("cannot save this front's figures: %s", error)
            await asyncio.sleep(SAVE_S)


class _Families:
    """Metric families as a registry collects them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


def exposition(figures: Figures, body: dict[str, Any] | None) -> bytes:
    """Prometheus's text. `body`: the broker's Status; None where there is none, and so no word of workers."""
    registry = CollectorRegistry(auto_describe=False)
    counts = {**figures.counts, "refused_messages": _refused(figures, body or {})}
    registry.register(_Families([*_front_families(figures, counts), *_pool_families(body)]))
    return generate_latest(registry)


def _refused(figures: Figures, body: dict[str, Any]) -> Counter[Labels]:
    """By fronts, as they count themselves, and by broker and workers, as the broker says."""
    counts = Counter(figures.counts["refused_messages"])
    counts.update({("broker", reason): count for reason, count in body.get("broker", {}).get("refused", {}).items()})
    for row in body.get("workers", []):
        for key, count in row.get("load", {}).items():
            if key.startswith("refused_"):
                counts[f"worker {row['inc'][:8]}", key.removeprefix("refused_")] += count
    return counts


def _front_families(figures: Figures, counts: Mapping[str, Counter[Labels]]) -> Iterator[Metric]:
    for name, figure in FIGURES.items():
        if figure.bounds:
            histograms = HistogramMetricFamily(PREFIX + name, figure.help, labels=figure.labels)
            for labels, one in figures.histograms[name].items():
                bounds = [*map(str, map(float, one.bounds)), "+Inf"]
                buckets = list(zip(bounds, accumulate(one.counts), strict=True))
                histograms.add_metric(labels, buckets, one.total)
            yield histograms
        else:
            yield _family(CounterMetricFamily, name, figure.help, figure.labels, counts.get(name, Counter()).items())


def _pool_families(body: dict[str, Any] | None) -> Iterator[Metric]:
    yield _family(GaugeMetricFamily, "broker_up", "Whether the broker answers.", (), [((), int(body is not None))])
    if body is None:
        return
    # A broker of another version may know less: what it does not tell is missing here, too.
    workers = [(_labels(row), row.get("load", {})) for row in body.get("workers", [])]
    for kind, table in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
        for name, (words, key) in table.items():
            told = [(labels, load[key]) for labels, load in workers if key in load]
            yield _family(kind, name, words, WORKER, told)
    used = [
        (labels, 1 - load["free_blocks"] / load["num_blocks"])
        for labels, load in workers
        if load.get("num_blocks") and "free_blocks" in load
    ]
    yield _family(GaugeMetricFamily, "kv_cache_usage_perc", "Share of KV blocks in use; 1 is all.", WORKER, used)
    models = body.get("models", {}).items()
    queued = [((name,), row["queued"]) for name, row in models if "queued" in row]
    yield _family(GaugeMetricFamily, "num_requests_queued", "Jobs that wait in the broker.", ("model_name",), queued)
    alive = [((name,), row["workers"]) for name, row in models if "workers" in row]
    yield _family(GaugeMetricFamily, "workers", "Workers that serve the model.", ("model_name",), alive)
    lost = [((name,), count) for name, count in body.get("broker", {}).get("lost_workers", {}).items()]
    words = "Workers that died unasked, since the broker started."
    yield _family(CounterMetricFamily, "lost_workers", words, ("model_name",), lost)


def _labels(row: dict[str, Any]) -> Labels:
    models = row.get("models") or [row.get("name", "")]
    return row["inc"][:8], models[0], row.get("device", "")


def _family(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    words: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    family = kind(PREFIX + name, words, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family
