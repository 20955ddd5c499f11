#!/usr/bin/env python
"""Make the README's picture with a quick model that is trained on the built-in data.

``make demo`` trains the model, and ``make pictures`` writes docs/pictures/explain.png with it.
"""

import argparse
import os

_WIDTH = 1200


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", metavar="FILE", default="configs/quick/demo.yaml")
    parser.add_argument("--weights", metavar="FILE", default="output/demo/model_final.pth")
    parser.add_argument("--image", type=int, default=136, help="number in shapes_val, from 1")
    parser.add_argument("--output", metavar="FILE", default="docs/pictures/explain.png")
    parser.add_argument("--confidence-threshold", type=float, metavar="SCORE", default=0.6)
    return parser


def main() -> None:
    """Read the command line, explain one image, and print what was written."""
    args = build_parser().parse_args()
    from detectron2.data import DatasetCatalog
    from PIL import Image

    from fpn_d2 import load_config
    from fpn_d2.data.images import read_image
    from fpn_d2.demo.outputs import write_picture
    from fpn_d2.inference import Explainer, classes_of
    from fpn_d2.utils.errors import UserError, exit_on_user_error
    from fpn_d2.visualization import draw_explanation

    with exit_on_user_error():
        images = DatasetCatalog.get("shapes_val")
        if not 0 < args.image <= len(images):
            raise UserError(f"--image is {args.image}: give 1 to {len(images)}")
        cfg = load_config(args.config_file, ["MODEL.WEIGHTS", args.weights])
        explainer = Explainer(cfg)
        image = read_image(images[args.image - 1]["file_name"])
        explanation = explainer.explain(image, threshold=args.confidence_threshold)
        page = Image.fromarray(draw_explanation(explanation, classes_of(cfg).names))
        size = (_WIDTH, round(page.height * _WIDTH / page.width))
        # 256 colours keep a clone small; chosen far apart, they keep the levels' own colours.
        small = page.resize(size, Image.Resampling.LANCZOS).quantize(
            256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
        write_picture(args.output, small)
        print(f"{args.output}: {os.path.getsize(args.output) // 1000} kB")


if __name__ == "__main__":
    main()
