"""Figures as Markdown tables, padded so that they read well on a terminal too. Pure formatting."""

from collections.abc import Sequence

from figures import Level, Stall
from targets import Target

Cells = list[list[str]]

LEVEL_HEAD = ["c", "server", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "tokens/s", "ours ÷ theirs"]
STALL_HEAD = ["server", "streams running", "ITL p50 before", "worst ITL", "long prompt's TTFT", "theirs ÷ ours"]
WORDS = {"load", "model", "options", "request", "server", "streams whole", "target", "tokens come", "verdict", "way"}
TARGET_HEAD = ["target", "wanted", "found", "verdict"]


def number(value: float) -> str:
    """Two or three figures, whatever the size: 0.52, 5.2, 52, 1,234."""
    for digits, below in ((2, 1), (1, 10)):
        if round(abs(value), digits) < below:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def ratio(above: float, below: float) -> str:
    return f"{number(above / below)}×"


def level_cells(levels: Sequence[Level], ours: str) -> Cells:
    """Rows by concurrency, ours first. The ratio is that of tokens/s: above 1 we are faster."""
    cells: Cells = []
    for concurrency in sorted({level.concurrency for level in levels}):
        rows = [level for level in levels if level.concurrency == concurrency]
        base = next((level for level in rows if level.server == ours), None)
        for row in sorted(rows, key=lambda level: level.server != ours):
            times_ms = (row.ttft_p50_ms, row.ttft_p99_ms, row.itl_p50_ms, row.itl_p99_ms)
            compared = "" if base is None or row is base else ratio(base.tokens_per_s, row.tokens_per_s)
            times = [f"{number(value)} ms" for value in times_ms]
            cells.append([str(concurrency), row.server, *times, number(row.tokens_per_s), compared])
    return cells


def stall_cells(stalls: Sequence[Stall], ours: str) -> Cells:
    """The ratio is that of the worst ITL: above 1 our streams stall less. Only where as many streams ran as on ours."""
    base = next((stall for stall in stalls if stall.server == ours), None)
    cells: Cells = []
    for stall in stalls:
        if base is None or stall is base or stall.num_running != base.num_running:
            compared = ""
        else:
            compared = ratio(stall.worst_itl_ms, base.worst_itl_ms)
        times = [f"{number(value)} ms" for value in (stall.itl_p50_ms, stall.worst_itl_ms, stall.ttft_ms)]
        cells.append([stall.server, number(stall.num_running), *times, compared])
    return cells


def target_cells(targets: Sequence[Target]) -> Cells:
    cells: Cells = []
    for one in targets:
        wanted = f"{'≥' if one.is_floor else '≤'} {one.wanted:g}{one.unit}"
        cells.append([one.what, wanted, f"{number(one.found)}{one.unit}", "met" if one.met else "missed"])
    return cells


def markdown(head: Sequence[str], cells: Cells) -> str:
    """Words to the left, numbers to the right; a column holds words if its name is in WORDS."""
    widths = [max(3, *(len(row[index]) for row in [head, *cells])) for index in range(len(head))]
    is_words = [name in WORDS for name in head]
    rule = ["-" * width if words else "-" * (width - 1) + ":" for width, words in zip(widths, is_words, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(row, widths, is_words, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(row) for row in [head, rule, *cells])
