#!/usr/bin/env python
"""Draw a run's detections or proposals beside the ground truth, and print its AP or AR.

``python tools/draw_results.py output/demo`` reads what training or ``--eval-only`` left under
``output/demo/inference/`` and writes ``output/demo/pictures/<data set>/*.png``.
"""

import argparse
import os

# Sections of results.json, the number to print from each, and the number's name.
_NUMBERS = (
    ("mask_proposals", "AR@1000", "mask AR at 1000"),
    ("bbox", "AP", "box AP"),
    ("box_proposals", "AR@1000", "box AR at 1000"),
)


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", metavar="RUN", help="the OUTPUT_DIR of a run that has been evaluated")
    add("--num-images", type=int, default=12)
    add("--output", default="", metavar="DIR", help="default: RUN/pictures, a folder for each set")
    add(
        "--confidence-threshold",
        "--threshold",
        dest="threshold",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="least score of a detection; default: %(default)s",
    )
    return parser


def main() -> None:
    """Read the command line, draw, and print the number of each data set."""
    args = build_parser().parse_args()
    from fpn_d2 import UserError
    from fpn_d2.utils.errors import exit_on_user_error
    from fpn_d2.utils.files import read_json
    from fpn_d2.visualization import draw_results

    with exit_on_user_error():
        if args.num_images < 0:
            raise UserError(f"--num-images is {args.num_images}: give 0 or more")
        if not 0 <= args.threshold <= 1:
            raise UserError(
                f"--confidence-threshold is {args.threshold}: give a number from 0 to 1"
            )
        inference = os.path.join(args.run, "inference")
        if not os.path.isdir(inference):
            raise UserError(f"{inference} does not exist; evaluate the model with train_net.py")
        datasets = sorted(entry.name for entry in os.scandir(inference) if entry.is_dir())
        if not datasets:
            raise UserError(f"{inference} holds no results; evaluate the model with train_net.py")
        for dataset in datasets:
            folder = os.path.join(inference, dataset)
            output = os.path.join(args.output or os.path.join(args.run, "pictures"), dataset)
            files = draw_results(
                folder, output, num_images=args.num_images, threshold=args.threshold
            )
            print(f"{len(files)} pictures in {output}")
            numbers = os.path.join(folder, "results.json")
            if not os.path.isfile(numbers):
                print(f"no numbers: {numbers} is not there, as after an evaluation that was cut")
                continue
            results = read_json(numbers)
            for section, number, name in _NUMBERS:
                if section in results:
                    value = results[section][number]
                    print(f"{name} = {'none' if value is None else f'{value:.1f}'}")
                    break


if __name__ == "__main__":
    main()
