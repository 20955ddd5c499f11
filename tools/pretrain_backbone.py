#!/usr/bin/env python
"""Train a config's bottom-up network to classify the objects of its training data.

``python tools/pretrain_backbone.py --config-file configs/quick/demo.yaml --output R-18.pkl``
writes a checkpoint in the form of Detectron2's ImageNet ones, for ``MODEL.WEIGHTS``.
"""

import argparse
import logging
import sys

from fpn_d2 import UserError, load_config
from fpn_d2.engine.pretraining import pretrain_backbone


def main() -> None:
    """Read the command line, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FILE", help="the .pkl to write")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY value pairs")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        cfg = load_config(args.config_file, args.opts)
        accuracy = pretrain_backbone(cfg, args.output, iterations=args.iterations)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{args.output}: {100 * accuracy:.1f} % of the training crops are classified correctly")


if __name__ == "__main__":
    main()
