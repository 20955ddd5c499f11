"""How the cost of a detector grows with its input: the fit, the verdict, a table and a picture.

A cost is the seconds, or MiB of memory, in a row of the benchmark's task "growth". c + a x^b is
fitted to it; b is the exponent of the part that grows. Most of what a detector does depends on the
pixels alone: a log-log slope of the whole cost would only tell how large that constant part is.
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from ..utils.files import replace_file
from ..visualization import PALETTE
from ..visualization.pages import svg_text

_ALLOWED = 0.05 + 1e-9  # excess over stock's exponent, and what rounding adds
# A cost that rises by less than this share of stock's at the first point counts as constant.
_FLAT = 0.1
# A cost below this share of the largest counts as that share: its noise would dominate the fit.
_SMALL = 0.01
_EXPONENTS = np.arange(0.1, 3.005, 0.01)
_DRAWS = 400
_COLORS = {"": PALETTE[4], "baseline_": PALETTE[0]}
_LINES = {"inference": "-", "training": "--"}
_UNITS = {"seconds": "seconds", "peak_mib": "MiB"}
_PANELS = 4  # side by side in the picture
_LEAST = {"seconds": 0.0, "peak_mib": 4.0}  # allocators round memory by up to this

COLUMNS = (
    *("grows", "from", "to", "of", "seconds", "detectron2", "exponents", "no faster"),
    *("MiB", "detectron2", "exponents", "no faster"),
)


class Growth(NamedTuple):
    """How the costs of this package and of stock Detectron2 grow along an axis.

    Args:
        ours, stock: the exponents; 0 where the cost is as good as constant.
        low: the 5 % quantile of the difference of the exponents (ours minus stock's) when rounds
            are drawn anew; the difference itself if that is lower, or if there is one round.
        verdict: "holds" if the difference is at most 0.05, "within noise" if only ``low`` is, else
            "does not hold"; "too little to tell" if a cost is too small.
    """

    ours: float
    stock: float
    low: float
    verdict: str


def compare_growth(
    values: Sequence[float],
    ours: Sequence[Sequence[float]],
    stock: Sequence[Sequence[float]],
    least: float = 0.0,
) -> Growth:
    """Fit both costs, and judge whether ours grows no faster than stock's.

    Args:
        values: the V values of what grows, in ascending order; at least two.
        ours, stock: for each value, the cost in each round; the two took turns in a round.
        least: every cost must be more than this, or the verdict is "too little to tell".
    """
    exponents = _exponents(values, [np.median(x) for x in ours], [np.median(x) for x in stock])
    generator = np.random.default_rng(0)
    differences = []
    if max(map(len, ours)) > 1:
        for _ in range(_DRAWS):
            drawn = [generator.integers(len(x), size=len(x)) for x in ours]
            mine, theirs = (
                [np.median(np.asarray(x)[i % len(x)]) for x, i in zip(costs, drawn, strict=True)]
                for costs in (ours, stock)
            )
            differences.append(float(np.subtract(*_exponents(values, mine, theirs))))
    difference = exponents[0] - exponents[1]
    low = min(float(np.quantile(differences, 0.05)), difference) if differences else difference
    if min(min(costs) for costs in (*ours, *stock)) <= least:
        verdict = "too little to tell"
    elif difference <= _ALLOWED:
        verdict = "holds"
    else:
        verdict = "within noise" if low <= _ALLOWED else "does not hold"
    return Growth(*exponents, low, verdict)


def _exponents(
    values: Sequence[float], ours: Sequence[float], stock: Sequence[float]
) -> tuple[float, float]:
    floor = _FLAT * stock[0]
    return fit_exponent(values, ours, floor), fit_exponent(values, stock, floor)


def fit_exponent(values: Sequence[float], costs: Sequence[float], floor: float = 0.0) -> float:
    """Fit c + a x^b with c, a >= 0 by least squares of the errors relative to the costs.

    Args:
        values, costs: x in ascending order, and the cost at each. Three points or fewer cannot
            determine the constant, so c is 0. The error of a cost below a hundredth of the largest
            is relative to that hundredth; with three points or fewer, the cost counts as that much.
        floor: a cost that rises by no more than this is constant.

    Returns:
        b, from 0.1 to 3, or 0 if the cost is constant. With three points or fewer, any slope in
        logarithms, below 0 if the cost falls.
    """
    x, cost = np.asarray(values, float), np.asarray(costs, float)
    scale = np.maximum(cost, max(_SMALL * cost.max(), 1e-9))
    if len(x) <= 3:
        slope = float(np.polyfit(np.log(x), np.log(scale), 1)[0])
        return slope if abs(cost[-1] - cost[0]) > floor else 0.0
    if cost[-2:].max() - cost[0] <= floor:
        return 0.0
    # For each b, the best c and a solve a least-squares problem of two unknowns.
    one, share = 1 / scale, cost / scale
    power = (x / x[-1]) ** _EXPONENTS[:, None] / scale
    s11, s12, s22 = (one * one).sum(), power @ one, (power * power).sum(axis=1)
    t1, t2 = one @ share, power @ share
    c = (s22 * t1 - s12 * t2) / (s11 * s22 - s12 * s12)
    c = np.maximum(c, 0.0)
    a = np.maximum((t2 - c * s12) / s22, 0.0)
    misses = ((c[:, None] * one + a[:, None] * power - share) ** 2).sum(axis=1)
    return round(float(_EXPONENTS[misses.argmin()]), 2)


def growth_lines(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Write the rows of the task "growth" as lines of :data:`COLUMNS`: one per axis, row and way.

    There is no line without two points of both, and a line has "" where a cost is missing.
    """
    lines = []
    for (axis, row, way), points in _grouped(rows).items():
        both = [p for p in points if p["seconds"] and p["baseline_seconds"]]
        if len(both) < 2:
            continue
        first, last = both[0], both[-1]
        cells = [axis, f"{first['value']:,}", f"{last['value']:,}", f"{row}, {way}"]
        for key in _UNITS:
            costs = _costs(both, key)
            if any(None in one for costs in costs for one in costs):
                cells += [""] * 4
                continue
            ends = [" to ".join(_number(np.median(one[i])) for i in (0, -1)) for one in costs]
            growth = compare_growth([p["value"] for p in both], *costs, _LEAST[key])
            cells += [*ends, f"{growth.ours:.2f} / {growth.stock:.2f}", growth.verdict]
        lines.append(cells)
    return lines


def _number(cost: float) -> str:
    return f"{cost:.3g}" if cost < 100 else f"{cost:,.0f}"


def left_out_lines(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Say what was not measured, and why, in one line for consecutive points with one reason."""
    lines = []
    for (axis, row, way), points in _grouped(rows).items():
        for told, alike in itertools.groupby(points, _reasons):
            first, *later = (f"{point['value']:,}" for point in alike)
            if told:
                values = f"{first} to {later[-1]}" if later else first
                lines.append(f"{axis} {values}, {row}, {way}: {told}")
    return lines


def _reasons(point: dict[str, Any]) -> str:
    reasons = {name: why for name, why in point["left_out"].items() if why}
    if len(set(reasons.values())) == 1 and len(reasons) == 2:
        reasons = {"both": next(iter(reasons.values()))}
    return "; ".join(f"{name}: {why}" for name, why in reasons.items())


def draw_growth(rows: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """Draw seconds and memory against what grows, ours beside stock's, as an SVG file.

    Raises:
        OSError: where the file cannot be written.
    """
    groups = _grouped(rows)
    columns = list(dict.fromkeys((axis, row) for axis, row, _ in groups))
    width = min(_PANELS, len(columns))
    lines = len(_UNITS) * -(-len(columns) // width)
    figure = Figure(figsize=(2.6 * width, 2.6 * lines), layout="constrained")
    for place, (axis, row) in enumerate(columns):
        block, left = divmod(place, width)
        for line, (key, unit) in enumerate(_UNITS.items(), start=len(_UNITS) * block):
            axes = figure.add_subplot(lines, width, line * width + left + 1)
            if left == 0:
                axes.set_ylabel(unit)
            for way, prefix in itertools.product(_LINES, _COLORS):
                _plot(axes, groups.get((axis, row, way), ()), key, way, prefix)
            axes.set_title(row, fontsize=8)
            axes.set_xlabel(axis)
            _scale(axes)
    handles = [
        Line2D([], [], color=color, linestyle=_LINES[way], label=f"{name}, {way}")
        for way in _LINES
        for name, color in zip(("this package", "detectron2"), _COLORS.values(), strict=True)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=width, frameon=False, fontsize=9
    )
    with replace_file(path, encoding="utf-8") as file:
        file.write(svg_text(figure, "growth", facecolor="white"))


def _scale(axes: Axes) -> None:
    """Make both axes logarithmic, or say that nothing was measured."""
    if not any(cost > 0 for curve in axes.lines for cost in curve.get_ydata()):
        axes.set(xticks=(), yticks=())
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return  # matplotlib has no logarithms of nothing
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_xlim()
    for scale, ticks in (
        (axes.xaxis, (1, 3) if high > 10 * low else (1, 2, 5)),
        (axes.yaxis, (1, 2, 5)),
    ):
        scale.set_major_locator(LogLocator(subs=ticks))
        scale.set_major_formatter(StrMethodFormatter("{x:g}"))
        scale.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", lw=0.5)


def _plot(axes: Axes, points: Iterable[dict], key: str, way: str, prefix: str) -> None:
    values = [p for p in points if p[f"{prefix}seconds"] and p[f"{prefix}{key}"] is not None]
    axes.plot(
        [p["value"] for p in values], [np.median(p[f"{prefix}{key}"]) for p in values],
        color=_COLORS[prefix], linestyle=_LINES[way], marker="o", ms=3, lw=1.5,
    )  # fmt: skip


def _grouped(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Group the points by what grows, the detector and inference or training."""
    groups = {}
    for row in rows:
        if row["task"] == "growth":
            groups.setdefault((row["axis"], row["row"], row["way"]), []).append(row)
    return groups


def _costs(points: Sequence[dict[str, Any]], key: str) -> tuple[list[list], list[list]]:
    """Return the costs of each point's rounds, ours and stock's; memory has one for all rounds."""
    mine, theirs = (
        [p[f"{prefix}{key}"] if key == "seconds" else [p[f"{prefix}{key}"]] for p in points]
        for prefix in ("", "baseline_")
    )
    return mine, theirs
