#!/usr/bin/env python
"""Train a config with stock Detectron2: its model, its trainer, its float32; for comparison.

``python tools/train_stock.py --config-file configs/quick/demo.yaml`` has Detectron2's options and
writes to the config's OUTPUT_DIR with ``-stock`` appended.
"""

import argparse
import runpy

from command import script


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser of train_net.py."""
    parser = runpy.run_path(script("train_net.py"))["build_parser"]()
    parser.description = __doc__.splitlines()[0]
    return parser


def main() -> None:
    """Read the command line and train."""
    parser = build_parser()
    args = parser.parse_args()
    if args.eval_only:
        parser.error("--eval-only: evaluate with train_net.py; this one trains")
    if args.epochs is not None:
        parser.error("stock Detectron2 counts iterations; give SOLVER.MAX_ITER for --epochs")
    from fpn_d2.engine import launch
    from fpn_d2.experiments.stock_training import train_stock

    launch(train_stock, args)


if __name__ == "__main__":
    main()
