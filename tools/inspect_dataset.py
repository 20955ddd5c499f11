#!/usr/bin/env python
"""Show how a config's pyramid and anchors fit a data set: sizes, levels, objects none reaches.

python tools/inspect_dataset.py my_data_train --config-file configs/RPN/rpn_R_50_FPN.yaml
python tools/inspect_dataset.py datasets/my_data --split val
python tools/inspect_dataset.py my_data/annotations/instances_train.json --output output/inspect

A folder may be in any layout of datasets/README.md. Writes
<data set>_inspect.html and .json, and suggests MODEL.ANCHOR_GENERATOR.SIZES.
"""

import argparse
import warnings

_CONFIG = "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", metavar="NAME_OR_PATH", help="a registered name, a folder, or a JSON file")
    add("--split", metavar="S", default="train", help="of a folder; default: train")
    add("--config-file", metavar="FILE", default="", help=f"of the model; default: {_CONFIG}")
    add("--images", metavar="FOLDER", default="", help="of a file's images")
    add("--output", metavar="DIR", default="output/inspect")
    add("--samples", type=int, default=8, help="images to draw")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="of the config")
    return parser


def main() -> None:
    """Read the command line, measure, write, print the summary."""
    args = build_parser().parse_args()
    from fpn_d2 import load_config
    from fpn_d2.inspection.inspection_page import summary, write_inspection
    from fpn_d2.inspection.measurements import Inspection
    from fpn_d2.utils.errors import UserError, exit_on_user_error

    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    with exit_on_user_error():
        if args.samples < 0:
            raise UserError(f"--samples is {args.samples}: give 0 or more")
        config = args.config_file or _CONFIG
        cfg = load_config(config, args.opts)
        found = Inspection(args.dataset, cfg, config, args.images, args.split)
        files = write_inspection(found, args.output, args.samples)
        print(summary(found))
        print(f"wrote {' and '.join(files)}")


if __name__ == "__main__":
    main()
