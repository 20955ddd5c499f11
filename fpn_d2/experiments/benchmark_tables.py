"""The tables of tools/benchmark.py: speed, the paper's rows, agreement and how cost grows."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from .cost_growth import COLUMNS as GROWTH_COLUMNS
from .cost_growth import growth_lines, left_out_lines

_SPEED_COLUMNS = (
    *("task", "this package", "seconds", "baseline", "seconds", "times as fast", "MiB"),
    *("of the matrix rate", "difference"),
)
_AGREEMENT_COLUMNS = (
    *("agreement", "images", "detections", "matched within 0.05 px"),
    *("largest difference of head outputs", "AP", "AP as Detectron2 runs it"),
)


def benchmark_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows of a benchmark in Markdown.

    Seconds are medians, with the fastest and the slowest round in brackets. Further tables follow
    where the benchmark has measured them: ratios for the rows of the paper's tables, the agreement
    of detections and the growth of cost.

    Args:
        rows: the content of ``results/benchmark_*.json``.
    """
    timed = [_speed_cells(row) for row in rows if row["task"] not in ("rows", "growth")]
    only_growth = bool(rows) and all(row["task"] == "growth" for row in rows)
    tables = [] if only_growth else [_github_table(_SPEED_COLUMNS, timed)]
    ratios: dict[str, dict[str, str]] = {}  # by row of the paper, and inference or training
    for row in rows:
        if row["task"] == "rows":
            name, way = row["variant"].rsplit(" ", 1)
            ours, theirs = (row[key] * 1000 for key in ("seconds", "baseline_seconds"))
            ratios.setdefault(name, {})[way] = f"{row['ratio']:.2f} ({ours:.0f} / {theirs:.0f} ms)"
            baseline = row["baseline"]
    if ratios:
        ways = sorted({way for cells in ratios.values() for way in cells})
        lines = [[name, *(cells.get(way, "") for way in ways)] for name, cells in ratios.items()]
        tables.append(_github_table([f"row, times as fast as {baseline}", *ways], lines))
    agreement = [_agreement_cells(row) for row in rows if row["task"] == "agreement"]
    if agreement:
        tables.append(_github_table(_AGREEMENT_COLUMNS, agreement))
    growth = growth_lines(rows)
    if growth:
        tables.append(_github_table(GROWTH_COLUMNS, growth))
    left_out = left_out_lines(rows)
    if left_out:
        tables.append("Not measured:\n\n" + "".join(f"- {line}\n" for line in left_out))
    return "\n".join(tables)


def _github_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, header, tablefmt="github", disable_numparse=True) + "\n"


def _speed_cells(row: dict[str, Any]) -> list[str]:
    peaks = row["peak_mib"], row["baseline_peak_mib"]
    share, error = row["share_of_matmul"], row["max_error"]
    return [
        row["task"],
        row["variant"],
        _seconds(row["seconds"], row["spread"]),
        row["baseline"],
        _seconds(row["baseline_seconds"], row["baseline_spread"]),
        f"{row['ratio']:.2f}",
        "" if None in peaks else "{} / {}".format(*peaks),
        "" if share is None else f"{share:.0%}",
        "" if error is None else f"{error:.0e}",
    ]


def _seconds(median: float, spread: Sequence[float]) -> str:
    return f"{median:.3g} ({spread[0]:.3g} to {spread[1]:.3g})"


def _agreement_cells(row: dict[str, Any]) -> list[str]:
    matched = row["matched_share"]
    return [
        row["variant"],
        str(row["images"]),
        str(row["detections"]),
        "" if matched is None else f"{matched:.2%}",
        f"{row['head_max_error']:.0e}",
        *("" if row[key] is None else f"{row[key]:.2f}" for key in ("AP", "baseline_AP")),
    ]
