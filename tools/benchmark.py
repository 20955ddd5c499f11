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
    benchmark_pooling,
    benchmark_table,
    benchmark_training,
    write_benchmark,
)
from fpn_d2.benchmark.detectors import variants_of
from fpn_d2.errors import exit_on_user_error

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
IMAGES = 100  # of the test set, for --agreement
TASKS = ("inference", "training", "pooling", "mask_proposals")


def main() -> None:
    """Read the command line, run the tasks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
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
    with exit_on_user_error():
        rows, device, rounds = [], args.device, max(1, args.rounds)
        if "pooling" in args.tasks:
            rows += benchmark_pooling(device, rounds)
        if "inference" in args.tasks:
            rows += benchmark_inference(CONFIGS, device, rounds, args.compile)
        if "mask_proposals" in args.tasks:
            rows += benchmark_mask_proposals(CONFIGS, device, rounds)
        if "training" in args.tasks:
            rows += benchmark_training(CONFIGS, device, max(1, rounds // 2))
        print(benchmark_table(rows))
        agreement = []
        if args.agreement:
            config, weights = args.agreement
            cfg = load_config(config, ["MODEL.DEVICE", device, "MODEL.WEIGHTS", weights])
            agreement = [benchmark_agreement(cfg, v, IMAGES) for v in variants_of(device)]
            print("\n".join(map(str, agreement)))
        if args.json:
            write_benchmark(rows, rounds, args.json, agreement)


if __name__ == "__main__":
    main()
