"""A table's results as figures, in SVG for a page."""

import itertools
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ..visualization import PALETTE
from ..visualization.charts import Chart, new_axes, to_svg
from .claims import Summaries, summarize
from .tables import Row, Table

# Yellow comes last, since it is faint on white.
_COLORS = tuple(PALETTE[i] for i in (0, 1, 2, 4, 5, 6, 3))
_LINES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (8, 2)), (0, (2, 1)))
_MARKERS = "os^Dv*P"
_COUNTS = {"AR10": 10, "AR30": 30, "AR100": 100, "AR300": 300, "AR1k": 1000}


class RowStyle(NamedTuple):
    """How a row looks in all figures, whether printed in colour or in grey.

    ``color`` is ``#RRGGBB``; ``line`` and ``marker`` are Matplotlib's.
    """

    color: str
    line: Any
    marker: str


def row_styles(rows: Mapping[str, Row]) -> dict[str, RowStyle]:
    """Return the look of each row by name, which depends only on its place in the table.

    A row beside another one looks like that one.
    """
    owners = {name: row.beside or name for name, row in rows.items()}
    looks = itertools.cycle(map(RowStyle, _COLORS, _LINES, _MARKERS))
    styles = {name: next(looks) for name, owner in owners.items() if name == owner}
    return {name: styles[owner] for name, owner in owners.items()}


def draw_charts(table: Table, results: Mapping[str, Any]) -> list[Chart]:
    """Draw the figures that the results have numbers for.

    Args:
        table: the table.
        results: the content of its results file.

    Returns:
        up to three figures: AR against the number of proposals, the metric by object size beside
        the paper's, and the losses.
    """
    summaries = summarize(results)
    styles = row_styles(table.rows)
    labels = {n: f"{n}: {row.name}" for n, row in table.rows.items() if not row.beside}
    charts = [
        _draw_recall(summaries, styles, labels),
        _draw_sizes(table, summaries, styles, labels),
        _draw_losses(results, styles, labels),
    ]
    return [chart for chart in charts if chart is not None]


def _draw_recall(
    summaries: Summaries, styles: Mapping[str, RowStyle], labels: Mapping[str, str]
) -> Chart | None:
    """Draw AR against the number of proposals."""
    figure, axes = new_axes()
    for name, label in labels.items():
        points = [
            (count, summaries[name][metric])
            for metric, count in _COUNTS.items()
            if metric in summaries.get(name, {})
        ]
        if len(points) < 2:
            continue
        counts = [count for count, _ in points]
        means = np.array([summary.mean for _, summary in points])
        spread = np.array([summary.deviation or 0.0 for _, summary in points])
        _plot(axes, counts, means, styles[name], label, marks=True)
        axes.fill_between(
            counts, means - spread, means + spread, color=styles[name].color, alpha=0.2, lw=0
        )
    if not axes.lines:
        return None
    axes.set_xscale("log")
    axes.set_xticks(list(_COUNTS.values()), [str(count) for count in _COUNTS.values()])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("proposals of an image")
    axes.set_ylabel("AR")
    return _chart(
        figure, "recall", "average recall against the number of proposals, by row",
        "Recall against the number of proposals",
        "Mean over the seeds; the band is one standard deviation to each side.",
    )  # fmt: skip


def _draw_sizes(
    table: Table,
    summaries: Summaries,
    styles: Mapping[str, RowStyle],
    labels: Mapping[str, str],
) -> Chart | None:
    """Draw bars of the metric by object size, ours filled and the paper's hatched."""
    stem = next((metric[:-2] for metric in table.metrics if metric.endswith("_s")), "")
    metrics = [f"{stem}_{size}" for size in "sml"]
    names = [n for n in labels if any(m in summaries.get(n, {}) for m in metrics)]
    if not stem or not names:
        return None
    figure, axes = new_axes()
    width = 0.84 / len(names)
    for i, name in enumerate(names):
        left = np.arange(3) - 0.42 + i * width
        ours = [summaries[name].get(metric) for metric in metrics]
        paper = [table.rows[name].paper.get(metric, 0.0) for metric in metrics]
        color = styles[name].color
        axes.bar(
            left, [summary.mean if summary else 0.0 for summary in ours], width * 0.5,
            align="edge", color=color, label=labels[name],
            yerr=[(summary.deviation or 0.0) if summary else 0.0 for summary in ours],
            error_kw={"lw": 0.9, "ecolor": "#222222"},
        )  # fmt: skip
        axes.bar(
            left + width * 0.5, paper, width * 0.36, align="edge", facecolor="white",
            edgecolor=color, hatch="////", linewidth=0.8,
        )  # fmt: skip
        for x in left + width * 0.45 if len(name) == 1 else ():  # The row's letter, for grey.
            axes.annotate(
                name, (x, 0), (0, -3), textcoords="offset points", ha="center", va="top",
                fontsize=8, color="#444444", annotation_clip=False,
            )  # fmt: skip
    axes.set_xticks(range(3), ["small", "medium", "large"])
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set_ylabel(stem)
    return _chart(
        figure, "sizes", f"{stem} of small, medium and large objects, by row",
        f"{stem} by the size of objects",
        "Filled: ours, with one standard deviation. Hatched: the paper's.",
    )  # fmt: skip


def _draw_losses(
    results: Mapping[str, Any], styles: Mapping[str, RowStyle], labels: Mapping[str, str]
) -> Chart | None:
    """Draw the total loss over the iterations."""
    curves: dict[str, list[dict[int, float]]] = {}
    for row in results.get("rows") or []:
        for seed in row.get("seeds") or []:
            losses = seed.get("losses") or {}
            points = zip(losses.get("iteration", []), losses.get("total_loss", []), strict=False)
            if curve := dict(points):
                curves.setdefault(str(row["row"]), []).append(curve)
    figure, axes = new_axes()
    for name in labels:
        seeds = curves.get(name)
        if not seeds:
            continue
        iterations = sorted(set.intersection(*(set(curve) for curve in seeds)))
        means = [statistics.fmean(curve[i] for curve in seeds) for i in iterations]
        _plot(axes, iterations, means, styles[name], labels[name])
    if not axes.lines:
        return None
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("iteration")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("total loss")
    return _chart(
        figure, "losses", "total training loss against the iteration, by row",
        "Training loss", "Mean over the seeds, as Detectron2 logs it; the axis is logarithmic.",
    )  # fmt: skip


def _plot(
    axes: Axes, x: list, y: Iterable[float], style: RowStyle, label: str, *, marks: bool = False
) -> None:
    axes.plot(
        x, y, color=style.color, linestyle=style.line, label=label, lw=2, ms=6,
        marker=style.marker if marks else None, markeredgecolor="#222222", markeredgewidth=0.5,
    )  # fmt: skip


def _chart(figure: Figure, prefix: str, description: str, title: str, caption: str) -> Chart:
    """Finish a figure with a legend below its only axes."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # In a figure of this width each of two columns holds this many letters.
    columns = 2 if max(map(len, labels), default=0) <= 34 else 1
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
        handlelength=3.2,
    )  # fmt: skip
    return Chart(title, caption, to_svg(figure, prefix, description))
