#!/usr/bin/env python
"""Write the weights of a checkpoint as .safetensors, which cannot hold code, or as .pth.

``python tools/convert_checkpoint.py model_final.pkl model_final.safetensors`` reads every form
that MODEL.WEIGHTS takes, without running what is in it, and writes nothing but the weights.
Detectors of torchvision and maskrcnn-benchmark get this package's names: docs/checkpoints.md.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # these take seconds to import, and the parser does not need them
    from detectron2.config import CfgNode
    from torch import Tensor

    from fpn_d2.checkpoint.foreign import Conversion

SOURCES = ("torchvision", "maskrcnn_benchmark", "detectron2")
LEAST_MATCHED = 0.95  # of the detections, with --check


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", help="a checkpoint: .pth, .pkl, .pyth, .safetensors, or a URL")
    parser.add_argument("output", help="the file to write: .safetensors or .pth")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")
    parser.add_argument(
        "--from", dest="source", choices=SOURCES, help="whose names it has; default: as they look"
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="of the model; default: the source's in configs/"
    )
    parser.add_argument(
        "--norm-eps", type=float, help="what its norms add to variances; default: found out"
    )
    parser.add_argument(
        "--all-classes", action="store_true", help="keep all 91 columns of torchvision's COCO"
    )
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="PATTERN",
        help="names that are not needed, such as '^roi_heads.mask'; a regular expression",
    )  # fmt: skip
    parser.add_argument(
        "--check", type=int, default=0, metavar="N",
        help="first compare with torchvision on N images",
    )  # fmt: skip
    return parser


def convert_names(args: argparse.Namespace, weights: dict[str, Tensor]) -> Conversion | None:
    """Rename weights to this package's names; return None if they have these already."""
    from fpn_d2.checkpoint.foreign import check_complete, convert_foreign, find_source
    from fpn_d2.config import CONFIGS, load_config
    from fpn_d2.utils.errors import UserError

    if args.check < 0 or (args.norm_eps is not None and not 0 <= args.norm_eps < 1):
        raise UserError("--check takes a number of images, and --norm-eps one from 0 to 1")
    source = args.source or find_source(weights)
    if args.check and source != "torchvision":
        raise UserError(f"--check compares with torchvision, but the names are {source}'s")
    refuse_without_effect(args, source)
    if source == "detectron2":
        return None
    print(f"names of {source}" + ("" if args.source else ", as they look"))
    conversion = convert_foreign(
        args.input,
        weights,
        source,
        norm_eps=args.norm_eps,
        all_classes=args.all_classes,
        left_out=tuple(args.leave_out),
    )
    path = args.config_file or f"{CONFIGS}/{conversion.config}"
    cfg = load_config(path, [*conversion.overrides, "MODEL.DEVICE", "cpu"])
    check_complete(conversion.weights, cfg)
    for note in conversion.notes:
        print(f"  {note}")
    if args.check:
        compare(args, cfg, conversion, weights)
    return conversion


def refuse_without_effect(args: argparse.Namespace, source: str) -> None:
    """Refuse options that have no effect on weights of this source."""
    from fpn_d2.utils.errors import UserError

    options = {"--all-classes": args.all_classes}
    if source == "detectron2":
        options |= {
            "--norm-eps": args.norm_eps is not None,
            "--leave-out": args.leave_out,
            "--config-file": args.config_file,
        }
    given = [option for option, value in options.items() if value]
    if given and source != "torchvision":
        raise UserError(
            f"{' and '.join(given)} has no effect on weights with the names of {source}; "
            "leave it out, or say with --from where the checkpoint comes from"
        )


def compare(
    args: argparse.Namespace, cfg: CfgNode, conversion: Conversion, weights: dict[str, Tensor]
) -> None:
    """Print how far the converted model is from torchvision's, and refuse a different one."""
    from detectron2.modeling import build_model

    from fpn_d2.checkpoint.foreign.torchvision_parity import (
        build_torchvision,
        compare_with_torchvision,
        noise_images,
    )
    from fpn_d2.utils.errors import UserError

    original = {
        name: weight
        for name, weight in weights.items()
        if not any(re.search(p, name.removeprefix("module.")) for p in args.leave_out)
    }
    ours = build_model(cfg.clone()).eval()
    ours.load_state_dict(conversion.weights)
    theirs = build_torchvision(original, conversion.norm_eps)
    images = noise_images(args.check)
    differences = compare_with_torchvision(ours, theirs, images, conversion.labels)
    print(f"beside torchvision's model, on {len(images)} images of noise:")
    for name, value in differences.items():
        print(f"  {name:14}{value:.6g}")
    if differences["matched_share"] < LEAST_MATCHED:
        raise UserError(
            f"only {differences['matched_share']:.1%} of the detections are torchvision's, so "
            "nothing is written; give --norm-eps and --config-file as the model was trained "
            "with, or leave out --check"
        )
    if not differences["detections"]:
        raise UserError(
            "torchvision's model finds nothing on noise, so the detections cannot be compared; try "
            "more images by --check, or leave it out"
        )


def main() -> None:
    """Read the command line, convert, say what was written."""
    args = build_parser().parse_args()
    from fpn_d2.checkpoint.conversion import convert_checkpoint
    from fpn_d2.utils.errors import exit_on_user_error

    conversion: Conversion | None = None

    def change(checkpoint: dict[str, Any]) -> dict[str, Any]:
        nonlocal conversion
        conversion = convert_names(args, checkpoint["model"])
        return checkpoint if conversion is None else {"model": conversion.weights}

    with exit_on_user_error():
        written = convert_checkpoint(args.input, args.output, overwrite=args.force, change=change)
        weights = written["model"]
        numbers = sum(weight.numel() for weight in weights.values())
        print(f"{args.output}: {len(weights)} tensors, {numbers:,} numbers")
        if conversion is not None:
            path = args.config_file or f"configs/{conversion.config}"
            words = [*conversion.overrides, "MODEL.WEIGHTS", args.output]
            print(f"its config: --config-file {path} {' '.join(words)}")


if __name__ == "__main__":
    main()
