#!/usr/bin/env python
"""Time this package beside stock Detectron2, torchvision and, where installed, exported models.

python tools/benchmark.py --json results/benchmark_mine.json
python tools/benchmark.py --agreement configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml model.pth
"""

import argparse
import logging
from pathlib import Path

import torch

from fpn_d2 import load_config
from fpn_d2.benchmark import (
    benchmark_agreement,
    benchmark_inference,
    benchmark_mask_proposals,
    benchmark_matching,
    benchmark_pooling,
    benchmark_rows,
    benchmark_table,
    benchmark_training,
    describe_benchmark,
    write_benchmark,
)
from fpn_d2.benchmark.detectors import variants_of
from fpn_d2.errors import exit_on_user_error

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
IMAGES = 100  # of the test set, for --agreement
TASKS = {  # in the order in which they run
    "pooling": lambda a: benchmark_pooling(a.device, a.rounds),
    "inference": lambda a: benchmark_inference(CONFIGS, a.device, a.rounds, a.compile),
    "matching": lambda a: benchmark_matching(CONFIGS, a.device, a.rounds),
    "mask_proposals": lambda a: benchmark_mask_proposals(CONFIGS, a.device, a.rounds),
    "training": lambda a: benchmark_training(CONFIGS, a.device, max(1, a.rounds // 2), a.compile),
    "rows": lambda a: benchmark_rows(CONFIGS, a.device, max(1, a.rounds // 2)),
}


def main() -> None:
    """Read the command line, run the tasks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rounds", type=int, default=5, help="of training a half of it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="add torch.compile; minutes more")
    parser.add_argument(
        "--agreement",
        nargs=2,
        metavar=("CONFIG", "WEIGHTS"),
        help="compare the detections of a trained Faster R-CNN, prepared and plain",
    )
    parser.add_argument("--json", default="", metavar="FILE", help="write the rows")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    with exit_on_user_error():
        rows, agreement, description = [], [], describe_benchmark(args.rounds)
        for task in TASKS:
            if task in args.tasks:
                rows += TASKS[task](args)
                write(args, rows, description, agreement)
        print(benchmark_table(rows), flush=True)
        for variant in variants_of(args.device) if args.agreement else ():
            config, weights = args.agreement
            cfg = load_config(config, ["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", weights])
            agreement.append(benchmark_agreement(cfg, variant, IMAGES))
            print(agreement[-1], flush=True)
            write(args, rows, description, agreement)


def write(args: argparse.Namespace, rows: list, description: dict, agreement: list) -> None:
    """Write what there is so far, where a file is asked for."""
    if args.json:
        write_benchmark(rows, description, args.json, agreement)


if __name__ == "__main__":
    main()
