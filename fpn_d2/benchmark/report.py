"""The benchmark's rows as a file for machines and as a table for people."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from ..utils.errors import UserError
from ..utils.files import write_json
from ..utils.provenance import (
    describe_machine,
    describe_versions,
    git_commit,
    installed_versions,
)

__all__ = ["benchmark_table", "describe_benchmark", "write_benchmark"]


def describe_benchmark() -> dict[str, Any]:
    """What a benchmark is measured on; to be called before it.

    Returns:
        ``{threads, machine, versions, commit}``, the last three as words.
    """
    machine = describe_machine()
    parts = [
        machine["processor"],
        f"{machine['cores']} cores",
        f"{machine['memory_gib']} GiB",
        *machine["instructions"],
        *machine["gpus"],
    ]
    versions = describe_versions() | installed_versions("onnx", "onnxruntime", "openvino")
    return {
        "threads": torch.get_num_threads(),
        "machine": ", ".join(parts),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": git_commit(),
    }


def write_benchmark(rows: Sequence[dict[str, Any]], description: dict[str, Any], path: str) -> None:
    """Write what was measured so far.

    Args:
        rows: see :func:`fpn_d2.benchmark.measure.row`.
        description: see :func:`describe_benchmark`; every row has it, so that files of several
            machines are one table when they are put together.
        path: the JSON file, a list of rows.

    Raises:
        UserError: where the file cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_json(path, [{**row, **description} for row in rows])
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); name another file") from error


def benchmark_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown: seconds are medians, with the fastest and the slowest in brackets.

    Where there are any, the paper's rows follow in a table of ratios, and the agreement of
    detections in another one.
    """
    lines = [
        "| task | this package | seconds | baseline | seconds | times as fast | MiB | of the "
        "matrix rate | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["task"] == "rows":
            continue
        cells = [
            row["task"],
            row["variant"],
            _seconds(row["seconds"], row["spread"]),
            row["baseline"],
            _seconds(row["baseline_seconds"], row["baseline_spread"]),
            f"{row['ratio']:.2f}",
            _memory(row["peak_mib"], row["baseline_peak_mib"]),
            "" if row["share_of_matmul"] is None else f"{row['share_of_matmul']:.0%}",
            "" if row["max_error"] is None else f"{row['max_error']:.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for task, table in (("rows", _lines_of_rows), ("agreement", _agreement_lines)):
        own = [row for row in rows if row["task"] == task]
        lines += table(own) if own else []
    return "\n".join(lines) + "\n"


def _lines_of_rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        name, way = row["variant"].rsplit(" ", 1)
        ours, theirs = (row[key] * 1000 for key in ("seconds", "baseline_seconds"))
        cells.setdefault(name, {})[way] = f"{row['ratio']:.2f} ({ours:.0f} / {theirs:.0f} ms)"
    ways = sorted({way for found in cells.values() for way in found})
    return [
        "",
        f"| row, times as fast as {rows[0]['baseline']} | {' | '.join(ways)} |",
        f"| --- |{' --- |' * len(ways)}",
        *(
            f"| {name} | {' | '.join(found.get(way, '') for way in ways)} |"
            for name, found in cells.items()
        ),
    ]


def _agreement_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "| agreement | images | detections | matched within 0.05 px | largest difference of head "
        "outputs | AP | AP as Detectron2 runs it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            row["variant"],
            str(row["images"]),
            str(row["detections"]),
            "" if row["matched_share"] is None else f"{row['matched_share']:.2%}",
            f"{row['head_max_error']:.0e}",
            *("" if row[key] is None else f"{row[key]:.2f}" for key in ("AP", "baseline_AP")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _seconds(median: float, spread: Sequence[float]) -> str:
    return f"{median:.3g} ({spread[0]:.3g} to {spread[1]:.3g})"


def _memory(ours: int | None, theirs: int | None) -> str:
    return "" if ours is None or theirs is None else f"{ours} / {theirs}"
