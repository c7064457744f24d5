"""Draws the JSON of serve_bench and engine_bench as SVG files that read well on light and on dark pages.

python benchmarks/plots.py NAME.json      writes docs/plots/NAME-*.svg
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

GREY = "#808080"
"""Text and axes: equally far from white and black."""
COLOURS = ["#3b8ed0", "#e08a2c", "#4caf6e", "#b565c9"]
"""Of middle lightness, for the same reason; told apart with any colour vision, as each line has its own mark, too."""
MARKS = "osD^"


class Line(NamedTuple):
    label: str
    xs: list[float]
    ys: list[float]
    dashed: bool = False


class Chart(NamedTuple):
    """Lines over a logarithmic axis of whole numbers."""

    name: str
    title: str
    x_label: str
    y_label: str
    note: str
    """Hardware, lengths and versions."""
    lines: list[Line]


def lines_by(rows: Sequence[dict[str, Any]], series: str, x: str, y: str) -> list[Line]:
    """One line for each value of the field `series`, in the order of their first rows."""
    lines: dict[Any, Line] = {}
    for row in rows:
        line = lines.setdefault(row[series], Line(str(row[series]), [], []))
        line.xs.append(row[x])
        line.ys.append(row[y])
    return list(lines.values())


def note(figures: dict[str, Any], *more: str) -> str:
    told = figures["conditions"]
    facts = [told["model"], told["dtype and device"], *more]
    return f"{told['machine']} · {told['date']}\n{' · '.join(facts)}\n{told['versions']}"


def serve_charts(figures: dict[str, Any]) -> list[Chart]:
    words = note(figures, figures["conditions"]["lengths"])
    levels = figures["levels"]
    rate = lines_by(levels, "server", "concurrency", "tokens_per_s")
    first = [
        line._replace(ys=[ms / 1e3 for ms in line.ys])
        for line in lines_by(levels, "server", "concurrency", "ttft_p50_ms")
    ]
    return [
        Chart("throughput", "Output tokens per second over HTTP", "streams at once", "tokens/s", words, rate),
        Chart("ttft", "Time to the first token over HTTP, p50", "streams at once", "seconds", words, first),
    ]


def engine_charts(figures: dict[str, Any]) -> list[Chart]:
    """Each context's step time with the least time that its bytes take at the measured bandwidth, dashed."""
    words = note(figures, figures["conditions"]["steps"])
    steps: list[Line] = []
    for line in lines_by(figures["decodes"], "context", "batch", "step_ms"):
        rows = [row for row in figures["decodes"] if str(row["context"]) == line.label]
        label = f"context {int(line.label):,}"
        floor = [row["step_ms"] * row["bandwidth_share"] for row in rows]
        steps += [line._replace(label=label), Line(f"{label}: bandwidth alone", line.xs, floor, dashed=True)]
    prefills = figures["prefills"]
    rate = Line("one prompt alone", [row["num_tokens"] for row in prefills], [row["tokens_per_s"] for row in prefills])
    return [
        Chart("steps", "Time of a decode step, no HTTP", "sequences at once", "milliseconds", words, steps),
        Chart("prefill", "Prompt tokens per second, no HTTP", "tokens in the prompt", "tokens/s", words, [rate]),
    ]


def charts(figures: dict[str, Any]) -> list[Chart]:
    return serve_charts(figures) if "levels" in figures else engine_charts(figures)


def draw(chart: Chart, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    # the same figures give the same file: no date, no random ids
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tokenyard", "text.color": GREY, "font.size": 10})
    mpl.rcParams.update(dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY))
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(7.2, 4.4), layout="constrained")
    solid = [line for line in chart.lines if not line.dashed]
    for line in chart.lines:
        place = next(index for index, one in enumerate(solid) if line.label.startswith(one.label))
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        style: dict[str, Any] = {"linestyle": ":", "alpha": 0.8} if line.dashed else {"marker": mark, "markersize": 5}
        axes.plot(line.xs, line.ys, color=colour, label=line.label, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({x for line in chart.lines for x in line.xs})
    axes.set_xticks(ticks, [f"{int(tick):,}" for tick in ticks])
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.minorticks_off()
    axes.grid(color=GREY, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(chart.title, loc="left")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if len(chart.lines) > 1:
        axes.legend(frameon=False, fontsize=8)
    figure.supxlabel(chart.note, fontsize=7, x=0.01, ha="left")
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def main(
    figures: Annotated[Path, typer.Argument(help="What --out of serve_bench or engine_bench wrote.")],
    directory: Annotated[Path, typer.Argument(help="Where the SVG files go.")] = Path("docs/plots"),
) -> None:
    """Draw all charts of one run."""
    directory.mkdir(parents=True, exist_ok=True)
    for chart in charts(json.loads(figures.read_text())):
        path = directory / f"{figures.stem}-{chart.name}.svg"
        draw(chart, path)
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
