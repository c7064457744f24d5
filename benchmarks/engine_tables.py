"""The engine's figures as Markdown tables. Pure formatting."""

from collections.abc import Sequence

from engine_steps import Decode, Prefill
from offline import Rates
from tables import Cells, number, ratio

DECODE_HEAD = ["context", "batch", "step", "tokens/s", "share of bandwidth", "share of compute"]
PREFILL_HEAD = ["prompt", "steps", "time", "tokens/s", "share of compute"]
RATES_HEAD = ["server", "tokens/s", "range", "step while all decode", "ours ÷ theirs"]


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def decode_cells(rows: Sequence[Decode]) -> Cells:
    return [
        [
            f"{row.context:,}",
            str(row.batch),
            f"{number(row.step_ms)} ms",
            number(row.tokens_per_s),
            percent(row.bandwidth_share),
            percent(row.compute_share),
        ]
        for row in rows
    ]


def prefill_cells(rows: Sequence[Prefill]) -> Cells:
    return [
        [
            f"{row.num_tokens:,}",
            str(row.num_steps),
            f"{number(row.ms)} ms",
            number(row.tokens_per_s),
            percent(row.compute_share),
        ]
        for row in rows
    ]


def rates_cells(rows: Sequence[Rates]) -> Cells:
    """Ours is the first."""
    return [
        [
            row.engine,
            number(row.tokens_per_s),
            "–".join(number(end) for end in row.tokens_per_s_range),
            "" if row.gap_ms is None else f"{number(row.gap_ms)} ms",
            "" if row is rows[0] else ratio(rows[0].tokens_per_s, row.tokens_per_s),
        ]
        for row in rows
    ]
