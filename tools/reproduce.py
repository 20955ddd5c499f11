#!/usr/bin/env python
"""Train and evaluate the rows of a table of the paper, and report them beside its numbers.

python tools/reproduce.py --table 1 --scale quick
python tools/reproduce.py --table 1 --scale quick --rows a,c --seeds 0,1,2 --dataset nuclei
python tools/reproduce.py --table 1 --scale paper --num-gpus 8 --slurm partition=gpu mem_gb=200
"""

import argparse
import logging
import sys

from command import script


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="1 to 6, time or precision")
    parser.add_argument(
        "--scale", default="quick",
        help="quick (two CPU cores), settled (longer schedules), photos (of COCO) or paper",
    )  # fmt: skip
    parser.add_argument("--rows", default="", help="such as a,c; default: all rows of the scale")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument(
        "--dataset", default="", help="NAME of NAME_train and NAME_val; default: the scale's own"
    )
    parser.add_argument(
        "--start", default="", metavar="START",
        help="crops, imagenet or a FILE that rows start from; default: the scale's own",
    )  # fmt: skip
    parser.add_argument(
        "--boxes",
        default="",
        metavar="N,N",
        help="measure the RPNs' recall with N boxes before NMS, too",
    )
    parser.add_argument(
        "--output", default="results", metavar="DIR", help="the report goes to DIR/<data set>/"
    )
    parser.add_argument(
        "--runs", default="output/reproduce", metavar="DIR", help="trainings and checkpoints"
    )
    parser.add_argument("--tables", default="", metavar="FILE", help="default: configs/tables.yaml")
    parser.add_argument("--num-gpus", type=int, default=0)
    parser.add_argument(
        "--slurm", nargs="*", metavar="KEY=VALUE",
        help="send each seed of a row as a job of a Slurm cluster, by submitit, and wait; its "
        "settings, such as partition=gpu timeout_min=600; the same command goes on later",
    )  # fmt: skip
    return parser


def main() -> None:
    """Read the command line, train what is missing, write the report."""
    args = build_parser().parse_args()
    from fpn_d2.experiments import Cluster, Progress, Reproduction, Runner, load_tables, reproduce
    from fpn_d2.utils.errors import exit_on_user_error

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_on_user_error(), Progress() as progress:
        runner = Runner(script("train_net.py"), args.num_gpus, progress)
        tables = load_tables(args.tables)
        plan = Reproduction(tables, args.scale, args.runs, runner, args.dataset, args.start)
        rows = [word for word in args.rows.split(",") if word]
        boxes = _numbers("--boxes", args.boxes, 1, "1000,6000") if args.boxes else []
        seeds = _numbers("--seeds", args.seeds, 0, "0,1,2")
        cluster = None
        if args.slurm is not None:
            cluster = Cluster(args.slurm, args.runs, args.num_gpus, progress.say)
        try:
            reproduce(plan, args.table, args.output, rows, seeds, progress, boxes, cluster)
        except KeyboardInterrupt:
            if cluster is None:  # else the user has been told what becomes of the jobs
                print("stopped; the same command goes on from there", file=sys.stderr)
            sys.exit(130)


def _numbers(option: str, words: str, least: int, example: str) -> list[int]:
    from fpn_d2 import UserError

    try:
        numbers = list(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise UserError(
            f"{option} {words} is not a list of whole numbers from {least} on, such as {example}"
        )
    return numbers


if __name__ == "__main__":
    main()
