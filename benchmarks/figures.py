"""From records of requests to the figures of a table. Pure arithmetic."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from sse_reader import Record


def percentile(values: Iterable[float], percent: float) -> float:
    """Linear between the closest ranks, as numpy's default."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, no percentile")
    rank = (len(ordered) - 1) * percent / 100
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def gaps_ms(record: Record) -> list[float]:
    """Between each two text chunks of one stream: the ITL samples."""
    return [(after - before) * 1e3 for before, after in pairwise(record.chunks_s)]


class Level(NamedTuple):
    """One server at one concurrency; times over the requests of all rounds."""

    server: str
    concurrency: int
    num_requests: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    tokens_per_s: float
    """Median of the rounds; each is all tokens by usage over the time from the first request to the last end."""
    tokens_per_s_range: tuple[float, float]
    tokens_per_chunk: float
    """Near 1 on both servers, or their ITLs would not compare."""
    server_cpu_ms_per_token: float
    """CPU time of all of the server's processes."""
    client_cpu_share: float
    """Of one core."""
    num_prompt_tokens: float
    """Mean."""
    num_tokens: float
    """Mean."""


def throughput(records: Sequence[Record]) -> float:
    """Tokens a second of one round."""
    window_s = max(record.end_s for record in records) - min(record.sent_s for record in records)
    return sum(record.num_tokens for record in records) / window_s


def summarize(
    server: str,
    concurrency: int,
    rounds: Sequence[Sequence[Record]],
    *,
    server_cpu_s: float,
    client_cpu_share: float,
) -> Level:
    """Fold the rounds of one level into its row."""
    records = [record for one_round in rounds for record in one_round]
    ttft_ms = [(record.chunks_s[0] - record.sent_s) * 1e3 for record in records]
    itl_ms = [gap for record in records for gap in gaps_ms(record)]
    rates = [throughput(one_round) for one_round in rounds]
    num_tokens = sum(record.num_tokens for record in records)
    return Level(
        server=server,
        concurrency=concurrency,
        num_requests=len(records),
        ttft_p50_ms=percentile(ttft_ms, 50),
        ttft_p99_ms=percentile(ttft_ms, 99),
        itl_p50_ms=percentile(itl_ms, 50),
        itl_p99_ms=percentile(itl_ms, 99),
        tokens_per_s=median(rates),
        tokens_per_s_range=(min(rates), max(rates)),
        tokens_per_chunk=num_tokens / sum(len(record.chunks_s) for record in records),
        server_cpu_ms_per_token=server_cpu_s * 1e3 / num_tokens,
        client_cpu_share=client_cpu_share,
        num_prompt_tokens=sum(record.num_prompt_tokens for record in records) / len(records),
        num_tokens=num_tokens / len(records),
    )


class Stall(NamedTuple):
    """What a long prompt did to the streams that ran when it came; the median of the rounds."""

    server: str
    num_running: float
    """Streams that had begun when the long prompt was sent; a server that serves one at a time has one."""
    itl_p50_ms: float
    """Of the running streams before it came."""
    worst_itl_ms: float
    """The longest gap of any running stream from then until the long prompt's first token."""
    ttft_ms: float
    """The long prompt's own."""


def read_stall(server: str, records: Sequence[Record], intruder: Record) -> Stall:
    """One round. Gaps that end before the long prompt was sent are the calm ones."""
    running = [record for record in records if record.chunks_s[0] < intruder.sent_s < record.chunks_s[-1]]
    calm_ms: list[float] = []
    shaken_ms: list[float] = []
    for record in running:
        for (before_s, after_s), gap_ms in zip(pairwise(record.chunks_s), gaps_ms(record), strict=True):
            if after_s <= intruder.sent_s:
                calm_ms.append(gap_ms)
            elif before_s <= intruder.chunks_s[0]:
                shaken_ms.append(gap_ms)
    return Stall(
        server=server,
        num_running=len(running),
        itl_p50_ms=percentile(calm_ms, 50),
        worst_itl_ms=max(shaken_ms),
        ttft_ms=(intruder.chunks_s[0] - intruder.sent_s) * 1e3,
    )


def median_stall(stalls: Sequence[Stall]) -> Stall:
    """Field by field, of one server's rounds."""
    numbers = [stall[1:] for stall in stalls]
    return Stall(stalls[0].server, *(median(column) for column in zip(*numbers, strict=True)))
