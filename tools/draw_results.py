#!/usr/bin/env python
"""Draw a run's detections or mask proposals beside the ground truth, and say its AP or AR.

``python tools/draw_results.py output/demo`` reads what training or ``--eval-only`` left under
``output/demo/inference/`` and writes ``output/demo/pictures/<data set>/*.png``.
"""

import argparse
import json
import os

from fpn_d2 import UserError
from fpn_d2.utils.errors import exit_on_user_error
from fpn_d2.visualization import draw_mask_proposals, draw_results


def main() -> None:
    """Read the command line, draw, print the number of each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the OUTPUT_DIR of a run that has been evaluated")
    parser.add_argument("--num-images", type=int, default=12)
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of a detection")
    args = parser.parse_args()
    with exit_on_user_error():
        inference = os.path.join(args.run, "inference")
        if not os.path.isdir(inference):
            raise UserError(f"{inference} does not exist; evaluate the model with train_net.py")
        for dataset in sorted(os.listdir(inference)):
            folder = os.path.join(inference, dataset)
            output = os.path.join(args.run, "pictures", dataset)
            if os.path.isfile(os.path.join(folder, "mask_proposals.json")):
                files = draw_mask_proposals(folder, output, num_images=args.num_images)
                name, place = "mask AR at 1000", ("mask_proposals", "AR@1000")
            else:
                files = draw_results(
                    folder, output, num_images=args.num_images, threshold=args.threshold
                )
                name, place = "box AP", ("bbox", "AP")
            print(f"{len(files)} pictures in {output}")
            with open(os.path.join(folder, "results.json"), encoding="utf-8") as file:
                value = json.load(file)[place[0]][place[1]]
            print(f"{name} = {'none' if value is None else f'{value:.1f}'}")


if __name__ == "__main__":
    main()
