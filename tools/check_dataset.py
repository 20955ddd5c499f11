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
import sys

from fpn_d2.inspection import check_dataset
from fpn_d2.utils.errors import exit_on_user_error


def main() -> None:
    """Read the command line, check, print the findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", metavar="NAME_OR_PATH", help="a registered name, a folder, or a JSON file")
    add("--images", metavar="FOLDER", default="", help="default: images/ beside a file's folder")
    add("--workers", type=int, help="processes; default: one for each CPU")
    add("--json", action="store_true", help="print the findings for machines")
    add("--strict", action="store_true", help="end with exit code 3 if there are warnings alone")
    args = parser.parse_args()
    with exit_on_user_error():
        report = check_dataset(args.dataset, args.images, args.workers)
    sys.stdout.reconfigure(errors="backslashreplace")  # file names have any characters
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
    warned = args.strict and report.count("warning")
    sys.exit(1 if report.count("error") else 3 if warned else 0)


if __name__ == "__main__":
    main()
