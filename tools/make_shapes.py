#!/usr/bin/env python
"""Make a shapes data set of any size under $DETECTRON2_DATASETS.

``python tools/make_shapes.py --name my_shapes --train 500 --val 100`` makes ``my_shapes_train``
and ``my_shapes_val``, which every later run knows by these names.
"""

import argparse
import logging


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser, with the defaults of the package's ShapesSpec."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="the data set's folder")
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--val", type=int, default=300, help="validation images")
    parser.add_argument("--size", type=int, default=320, help="longer side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    """Read the command line, generate, print the names."""
    args = build_parser().parse_args()
    from fpn_d2 import UserError
    from fpn_d2.data.datasets import ShapesSpec, datasets_root, generate_shapes
    from fpn_d2.utils.errors import exit_on_user_error

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_on_user_error():
        spec = ShapesSpec(train=args.train, val=args.val, size=args.size, seed=args.seed)
        if args.name == "shapes" and spec != ShapesSpec():
            raise UserError(
                "the built-in data set 'shapes' would be generated anew at its next use: "
                "choose another --name"
            )
        folder = generate_shapes(datasets_root(), args.name, spec)
    print(f"{folder}: {args.name}_train, {args.name}_val")


if __name__ == "__main__":
    main()
