#!/usr/bin/env python
"""Read every image and annotation of a data set in COCO's format and list what is wrong, by image.

python tools/check_dataset.py my_data_train
python tools/check_dataset.py my_data/annotations/instances_train.json
python tools/check_dataset.py annotations.json --images photos/ --json > report.json

Exit code: 0 nothing is wrong, 1 errors, 2 the data set could not be checked, 3 warnings alone. An
error stops a run or makes its results wrong. A warning tells what is left out or clipped, and what
only some runs need.
"""

import argparse
import json
import sys

from fpn_d2.data import check_file
from fpn_d2.inspection.annotated_objects import dataset_files
from fpn_d2.utils.errors import exit_on_user_error


def main() -> None:
    """Read the command line, check, print the findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="NAME_OR_JSON", help="a registered name, or a file")
    parser.add_argument(
        "--images", metavar="FOLDER", help="of a file; default: images/ beside its folder"
    )
    parser.add_argument("--workers", type=int, help="processes; default: one for each CPU")
    parser.add_argument("--json", action="store_true", help="print the findings for machines")
    args = parser.parse_args()
    with exit_on_user_error():
        path, folder = dataset_files(args.dataset)
        report = check_file(path, args.images or folder, args.workers)
    sys.stdout.reconfigure(errors="backslashreplace")  # file names have any characters
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
    sys.exit(1 if report.count("error") else 3 if report.count("warning") else 0)


if __name__ == "__main__":
    main()
