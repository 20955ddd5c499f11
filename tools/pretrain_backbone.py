#!/usr/bin/env python
"""Train a config's bottom-up network to classify the objects of its training data.

``python tools/pretrain_backbone.py --config-file configs/quick/demo.yaml --output R-18.pkl``
writes a checkpoint for ``MODEL.WEIGHTS``, in the form of Detectron2's ImageNet checkpoints.
"""

import argparse
import logging


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FILE", help="the .pkl to write")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128, help="crops; default: 128")
    parser.add_argument(
        "--held-out", type=float, default=0.0, metavar="SHARE",
        help="train until the accuracy on this share of images stops rising, or --iterations",
    )  # fmt: skip
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser


def main() -> None:
    """Read the command line, train, write."""
    args = build_parser().parse_args()
    from fpn_d2 import load_config
    from fpn_d2.experiments.pretraining import pretrain_backbone
    from fpn_d2.utils.errors import exit_on_user_error

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_on_user_error():
        cfg = load_config(args.config_file, args.opts)
        done = pretrain_backbone(
            cfg,
            args.output,
            iterations=args.iterations,
            batch_size=args.batch_size,
            held_out=args.held_out,
        )
    kind = "held-out" if done.held_out else "training"
    print(
        f"{args.output}: {100 * done.accuracy:.1f} % of the {kind} crops are classified correctly"
    )


if __name__ == "__main__":
    main()
