#!/usr/bin/env python
"""Time this package beside stock Detectron2, torchvision and, where installed, exported models.

python tools/benchmark.py --json results/benchmark_mine.json
python tools/benchmark.py --agreement configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml model.pth
"""

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from benchmark.agreement import benchmark_agreement
from benchmark.contest import run_task
from benchmark.detectors import benchmark_inference, benchmark_training
from benchmark.engine_parts import benchmark_parts
from benchmark.operators import benchmark_mask_proposals, benchmark_matching, benchmark_pooling
from benchmark.paper_rows import benchmark_rows
from benchmark.profiling import profile_detectors

from fpn_d2.experiments.report import benchmark_table
from fpn_d2.utils.devices import keep_freed_memory
from fpn_d2.utils.errors import UserError, exit_on_user_error
from fpn_d2.utils.files import write_json
from fpn_d2.utils.provenance import (
    describe_machine,
    describe_versions,
    git_commit,
    installed_versions,
)

# Each task with its rounds as a multiple of --rounds, in the order in which they run.
TASKS = {
    "pooling": (benchmark_pooling, 1),
    "inference": (benchmark_inference, 1),
    "parts": (benchmark_parts, 1),
    "training": (benchmark_training, 0.5),
    "matching": (benchmark_matching, 0.5),
    "mask_proposals": (benchmark_mask_proposals, 0.5),
    "rows": (benchmark_rows, 2),
}
COMPILED_TASKS = ("inference", "training")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = [task for task in TASKS if task not in ("rows", "parts")]
    parser.add_argument("--tasks", nargs="*", default=default, choices=TASKS)
    parser.add_argument("--rows", action="store_true", help="add every row of Tables 1 to 3")
    parser.add_argument("--rounds", type=int, default=5, help="slow tasks take half of them")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", default=devices[0], choices=devices)
    parser.add_argument("--compile", action="store_true", help="add torch.compile; minutes more")
    parser.add_argument(
        "--agreement",
        nargs=2,
        metavar=("CONFIG", "WEIGHTS"),
        help="compare the detections of a trained Faster R-CNN, prepared and plain, too",
    )
    parser.add_argument("--profile", action="store_true", help="print where our time goes, too")
    parser.add_argument("--json", default="", metavar="FILE", help="write the rows")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if args.rows:
        args.tasks.append("rows")
    return args


def describe_benchmark() -> dict[str, Any]:
    """Describe what a benchmark runs on, in words: ``{threads, machine, versions, commit}``."""
    machine = describe_machine()
    sizes = [f"{machine['cores']} cores", f"{machine['memory_gib']} GiB"]
    parts = [machine["processor"], *sizes, *machine["instructions"], *machine["gpus"]]
    versions = describe_versions() | installed_versions("onnx", "onnxruntime", "openvino", "nncf")
    return {
        "threads": torch.get_num_threads(),
        "machine": ", ".join(parts),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": git_commit(),
    }


def write_benchmark(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Write a list of rows; see :func:`benchmark.contest.make_row`.

    Raises:
        UserError: where the file cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_json(path, rows)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); name another file") from error


def main() -> None:
    """Run the tasks and print their table."""
    args = parse_arguments()
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    calls = [
        (*TASKS[name], *([args.compile] if name in COMPILED_TASKS else []))
        for name in TASKS
        if name in args.tasks
    ]
    if args.agreement:
        calls.append((benchmark_agreement, 0.5, *args.agreement))
    with exit_on_user_error():
        rows, description = [], describe_benchmark()
        if args.json and not os.path.exists(args.json):
            write_benchmark([], args.json)  # before minutes of work are lost
        for task, share, *arguments in calls:
            start = time.perf_counter()
            rounds = max(1, int(share * args.rounds))
            # Each row tells where it is from, so that files of several machines can be joined.
            found = run_task(task, args.device, rounds, *arguments)
            rows += [{**row, **description} for row in found]
            print(f"{task.__name__}: {time.perf_counter() - start:.0f} s", flush=True)
            if args.json:
                write_benchmark(rows, args.json)
        print(benchmark_table(rows))
        if args.profile:
            keep_freed_memory()
            print(profile_detectors(args.device))
        print(*(f"{name}: {value}" for name, value in description.items()), sep="\n")


if __name__ == "__main__":
    main()
