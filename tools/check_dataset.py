#!/usr/bin/env python
"""Read every image and annotation of a data set and list what is wrong, by image.

python tools/check_dataset.py my_data_train
python tools/check_dataset.py datasets/my_data
python tools/check_dataset.py my_data/annotations/instances_train.json
python tools/check_dataset.py annotations.json --images photos/ --json > report.json

A folder may be in COCO's layout, YOLO's, Pascal VOC's or Roboflow's (datasets/README.md); all its
splits are checked.

Exit code: 0 no errors, 1 errors, 2 the data set could not be checked, 3 warnings alone with
--strict. An error stops a run or makes its results wrong. A warning tells what is left out or
clipped, and what only some runs need.
"""

import argparse
import json
import os
import sys


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", nargs="?", metavar="NAME_OR_PATH", help="a registered name, a folder, or a file")
    add("--images", metavar="FOLDER", default="", help="default: images/ beside a file's folder")
    add("--workers", type=int, help="processes; default: one for each CPU")
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the findings for machines; without FILE, print them in place of the text",
    )
    add("--force", action="store_true", help="replace FILE if it is there")
    add("--strict", action="store_true", help="end with exit code 3 if there are warnings alone")
    return parser


def main() -> None:
    """Read the command line, check, print the findings."""
    parser = build_parser()
    args = parser.parse_args()
    if args.dataset is None:  # `--json DATA`, which means a bare --json and DATA
        args.dataset, args.json = args.json, "-"
    if args.dataset in (None, "-"):
        parser.error("no data set is named; give its name, its folder or its JSON file")
    from fpn_d2.inspection.dataset_check import check_dataset
    from fpn_d2.utils.errors import exit_on_user_error
    from fpn_d2.utils.files import explain_disk_errors, prepare_target, write_json

    with exit_on_user_error():
        to_file = args.json not in (None, "-")
        if to_file:
            prepare_target(args.json, overwrite=args.force, option="--json")
        report = check_dataset(args.dataset, args.images, args.workers)
        if to_file:
            with explain_disk_errors(args.json, "name another --json"):
                write_json(args.json, report.as_json())
    text = json.dumps(report.as_json(), indent=2) if args.json == "-" else report.as_text()
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has ended; the exit code is that of the data all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    warned = args.strict and report.count("warning")
    sys.exit(1 if report.count("error") else 3 if warned else 0)


if __name__ == "__main__":
    main()
