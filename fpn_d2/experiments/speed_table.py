"""What tools/benchmark.py measured, as tables in Markdown."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

_HEADERS = (
    "task",
    "this package",
    "seconds",
    "baseline",
    "seconds",
    "times as fast",
    "MiB",
    "of the matrix rate",
    "difference",
)
_AGREEMENT_HEADERS = (
    "agreement",
    "images",
    "detections",
    "matched within 0.05 px",
    "largest difference of head outputs",
    "AP",
    "AP as Detectron2 runs it",
)


def benchmark_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows of a benchmark in Markdown.

    Seconds are medians, with the fastest and the slowest round in brackets. The rows of the paper's
    tables follow in a table of ratios, and the agreement of detections in a third one, where the
    benchmark has measured them.

    Args:
        rows: the content of ``results/benchmark_*.json``.
    """
    tables = [_markdown(_HEADERS, [_cells(row) for row in rows if row["task"] != "rows"])]
    paper_rows = [row for row in rows if row["task"] == "rows"]
    if paper_rows:
        tables.append(_table_of_ratios(paper_rows))
    agreement = [_agreement_cells(row) for row in rows if row["task"] == "agreement"]
    if agreement:
        tables.append(_markdown(_AGREEMENT_HEADERS, agreement))
    return "\n".join(tables)


def _markdown(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
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


def _table_of_ratios(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each row of the paper's tables; a column for inference and one for training."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        name, way = row["variant"].rsplit(" ", 1)
        ours, theirs = (row[key] * 1000 for key in ("seconds", "baseline_seconds"))
        lines.setdefault(name, {})[way] = f"{row['ratio']:.2f} ({ours:.0f} / {theirs:.0f} ms)"
    ways = sorted({way for cells in lines.values() for way in cells})
    return _markdown(
        [f"row, times as fast as {rows[0]['baseline']}", *ways],
        [[name, *(cells.get(way, "") for way in ways)] for name, cells in lines.items()],
    )


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
