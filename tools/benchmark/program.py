"""What a benchmark runs: its tasks one after another, their rows and where these come from."""

import argparse
import os
import time
from collections.abc import Iterable
from typing import Any

import torch

from fpn_d2.experiments.benchmark_tables import benchmark_table
from fpn_d2.experiments.cost_growth import draw_growth
from fpn_d2.utils.devices import keep_freed_memory
from fpn_d2.utils.errors import UserError
from fpn_d2.utils.files import check_targets, explain_disk_errors, write_json
from fpn_d2.utils.provenance import (
    describe_machine,
    describe_versions,
    git_commit,
    installed_versions,
)

from .agreement import benchmark_agreement, check_agreement
from .contest import run_task
from .detectors import benchmark_inference, benchmark_parts, benchmark_training
from .growth import all_series, growth_line, measure_growth
from .operators import benchmark_mask_proposals, benchmark_matching, benchmark_pooling
from .paper_rows import benchmark_rows
from .profiling import profile_detectors

# Each task with its rounds as a multiple of --rounds, in the order in which they run.
TASKS = {
    "pooling": (benchmark_pooling, 1),
    "inference": (benchmark_inference, 1),
    "parts": (benchmark_parts, 1),
    "training": (benchmark_training, 1),
    "matching": (benchmark_matching, 0.5),
    "mask_proposals": (benchmark_mask_proposals, 0.5),
    "rows": (benchmark_rows, 2),
}
_GROWTH_ROUNDS = 0.5  # as a multiple of --rounds
COMPILED_TASKS = ("inference", "training")


def describe_benchmark() -> dict[str, Any]:
    """Describe what a benchmark runs on, in words: ``{threads, machine, versions, commit}``."""
    machine = describe_machine()
    sizes = [f"{machine['cores']} cores"]
    sizes += [f"{machine['memory_gib']} GiB"] if "memory_gib" in machine else []
    parts = [machine["processor"], *sizes, *machine["instructions"], *machine["gpus"]]
    parts += ["TF32 on" if machine["tf32"] else "TF32 off"] if "tf32" in machine else []
    versions = describe_versions() | installed_versions("onnx", "onnxruntime", "openvino", "nncf")
    return {
        "threads": torch.get_num_threads(),
        "machine": ", ".join(parts),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": git_commit(),
    }


def run_benchmark(args: argparse.Namespace) -> None:
    """Run the tasks and print their table.

    Args:
        args: as tools/benchmark.py parses them.

    Raises:
        UserError: for a device that is not there, a file that cannot be written, and what
            :func:`benchmark.agreement.check_agreement` refuses.
    """
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU, and torch finds none; give cpu")
    calls = [
        (*TASKS[name], *([args.compile] if name in COMPILED_TASKS else []))
        for name in TASKS
        if name in args.tasks
    ]
    if args.agreement:
        check_agreement(*args.agreement)  # now, as that task runs last
        calls.append((benchmark_agreement, 0.5, *args.agreement))
    rows, description = [], describe_benchmark()

    def keep(found: Iterable[dict[str, Any]]) -> None:
        # Each row tells where it comes from, so that files of several machines can be joined.
        rows.extend({**row, **description} for row in found)
        if args.json:
            with explain_disk_errors(args.json, "name another file"):
                os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
                write_json(args.json, rows)

    no_rows = len("[]\n")  # of a call that was cut short
    if args.json:
        has_rows = os.path.isfile(args.json) and os.path.getsize(args.json) > no_rows
        check_targets(args.json, overwrite=args.force or not has_rows, option="--json")
        if not has_rows:
            keep([])  # fails now, before minutes of work are lost
    for task, share, *arguments in calls:
        start = time.perf_counter()
        rounds = max(1, int(share * args.rounds))
        keep(run_task(task, device, rounds, *arguments))
        # Last: the reader of what is printed may have ended.
        print(f"{task.__name__}: {time.perf_counter() - start:.0f} s", flush=True)
    if "growth" in args.tasks:
        rounds = max(1, int(_GROWTH_ROUNDS * args.rounds))
        series = all_series(args.quick, args.axes)
        for row in measure_growth(device, rounds, args.minutes, series):
            keep([row])
            print(growth_line(row), flush=True)
        if args.json:
            draw_growth(rows, f"{os.path.splitext(args.json)[0]}.svg")
    print(benchmark_table(rows))
    if args.profile:
        keep_freed_memory()
        print(profile_detectors(device))
    print(*(f"{name}: {value}" for name, value in description.items()), sep="\n")
