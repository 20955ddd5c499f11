#!/usr/bin/env python
"""Time this package beside stock Detectron2, torchvision and, where installed, exported models.

python tools/benchmark.py --json results/benchmark_mine.json
python tools/benchmark.py --agreement configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml model.pth
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import torch

from fpn_d2.benchmark import (
    benchmark_agreement,
    benchmark_inference,
    benchmark_linear,
    benchmark_mask_proposals,
    benchmark_matching,
    benchmark_pooling,
    benchmark_rows,
    benchmark_table,
    benchmark_training,
    describe_benchmark,
    profile_detectors,
    take_turns,
    write_benchmark,
)
from fpn_d2.utils.devices import keep_freed_memory
from fpn_d2.utils.errors import exit_on_user_error

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TASKS = {  # in the order in which they run
    "pooling": lambda a: (benchmark_pooling, a.device, a.rounds),
    "linear": lambda a: (benchmark_linear, a.device, a.rounds),
    "inference": lambda a: (benchmark_inference, CONFIGS, a.device, a.rounds, a.compile),
    "training": lambda a: (benchmark_training, CONFIGS, a.device, half(a.rounds), a.compile),
    "matching": lambda a: (benchmark_matching, CONFIGS, a.device, half(a.rounds)),
    "mask_proposals": lambda a: (benchmark_mask_proposals, CONFIGS, a.device, half(a.rounds)),
    "rows": lambda a: (benchmark_rows, CONFIGS, a.device, 2 * a.rounds),
}


def half(rounds: int) -> int:
    """Of what takes long."""
    return max(1, rounds // 2)


def main() -> None:
    """Read the command line, run the tasks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = [task for task in TASKS if task != "rows"]
    parser.add_argument("--tasks", nargs="*", default=default, choices=TASKS)
    parser.add_argument("--rows", action="store_true", help="add every row of Tables 1 to 3")
    parser.add_argument("--rounds", type=int, default=5, help="fewer of what takes long")
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
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    if args.rows:
        args.tasks.append("rows")
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    calls = [TASKS[task](args) for task in TASKS if task in args.tasks]
    if args.agreement:
        calls.append((benchmark_agreement, *args.agreement, args.device, half(args.rounds)))
    with exit_on_user_error():
        rows, description = [], describe_benchmark()
        if args.json and not os.path.exists(args.json):
            write_benchmark([], description, args.json)  # before minutes of work are lost
        for function, *arguments in calls:
            start = time.perf_counter()
            rows += take_turns(function, *arguments)
            print(f"{function.__name__}: {time.perf_counter() - start:.0f} s", flush=True)
            if args.json:  # what there is so far
                write_benchmark(rows, description, args.json)
        print(benchmark_table(rows))
        if args.profile:
            keep_freed_memory()
            print(profile_detectors(CONFIGS, args.device))
        print(*(f"{name}: {value}" for name, value in description.items()), sep="\n")


if __name__ == "__main__":
    main()
