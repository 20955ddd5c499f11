"""The benchmark's rows as a file for machines and as a table for people."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from ..engine.provenance import describe_machine, describe_versions, git_commit
from ..files import write_json

__all__ = ["benchmark_table", "describe_benchmark", "write_benchmark"]


def describe_benchmark(rounds: int) -> dict[str, Any]:
    """What a benchmark is measured on; to be called before it.

    Args:
        rounds: how often each contestant will be timed.

    Returns:
        ``{rounds, threads, commit, machine, versions}``.
    """
    return {
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def write_benchmark(
    rows: Sequence[dict[str, Any]],
    description: dict[str, Any],
    path: str,
    agreement: Sequence[dict[str, Any]] = (),
) -> None:
    """Write what was measured so far.

    Args:
        rows: see :func:`fpn_d2.benchmark.measure.row`.
        description: see :func:`describe_benchmark`.
        path: the JSON file: ``{rows, agreement, ...}`` and the description.
        agreement: see :func:`fpn_d2.benchmark.benchmark_agreement`.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_json(path, {"rows": list(rows), "agreement": list(agreement), **description})


def benchmark_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown: seconds are medians, with the fastest and the slowest in brackets."""
    lines = [
        "| task | this package | seconds | baseline | seconds | times as fast | MiB | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            row["task"],
            row["variant"],
            _seconds(row["seconds"], row["spread"]),
            row["baseline"],
            _seconds(row["baseline_seconds"], row["baseline_spread"]),
            f"{row['ratio']:.2f}",
            _memory(row["peak_mib"], row["baseline_peak_mib"]),
            "" if row["max_error"] is None else f"{row['max_error']:.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seconds(median: float, spread: Sequence[float]) -> str:
    return f"{median:.3g} ({spread[0]:.3g} to {spread[1]:.3g})"


def _memory(ours: int | None, theirs: int | None) -> str:
    return "" if ours is None or theirs is None else f"{ours} / {theirs}"
