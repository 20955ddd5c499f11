#!/usr/bin/env python
"""Time this package beside stock Detectron2, torchvision and, where installed, exported models.

python tools/benchmark.py --json results/benchmark_mine.json
python tools/benchmark.py --agreement configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml model.pth
"""

import argparse
import warnings

# In the order in which they run.
TASKS = (
    *("pooling", "inference", "parts", "training", "matching", "mask_proposals", "rows"),
    "growth",
)
AXES = ("objects", "classes", "proposals", "processes", "side")  # what grows
_BY_NAME = ("rows", "parts", "growth")  # run only if they are named


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    default = [task for task in TASKS if task not in _BY_NAME]
    add("--tasks", nargs="*", default=default, choices=TASKS)
    add("--rows", action="store_true", help="add every row of Tables 1 to 3")
    add("--rounds", type=int, default=5, help="slow tasks take half of them")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU")
    add("--compile", action="store_true", help="add torch.compile; minutes more")
    add(
        "--agreement",
        nargs=2,
        metavar=("CONFIG", "WEIGHTS"),
        help="compare the detections of a trained Faster R-CNN, prepared and plain, too",
    )
    add("--quick", action="store_true", help="growth: three points of the lower end of each range")
    add("--axes", nargs="+", default=AXES, choices=AXES, help="growth: what grows; all by default")
    add(
        "--minutes",
        type=float,
        default=25.0,
        metavar="N",
        help="growth: leave out points that would end later",
    )
    add("--profile", action="store_true", help="print where our time goes, too")
    add("--json", default="", metavar="FILE", help="write the rows")
    add("--force", action="store_true", help="replace FILE if it is there")
    return parser


def main() -> None:
    """Read the command line, run the tasks, print their table."""
    parser = build_parser()
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if not args.minutes > 0:
        parser.error("--minutes must be more than 0")
    if args.rows:
        args.tasks.append("rows")
    from benchmark.program import run_benchmark

    from fpn_d2.utils.errors import exit_on_user_error

    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    with exit_on_user_error():
        run_benchmark(args)


if __name__ == "__main__":
    main()
