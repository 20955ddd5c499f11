#!/usr/bin/env python
"""Write the weights of a checkpoint as .safetensors, which cannot hold code, or as .pth.

``python tools/convert_checkpoint.py model_final.pkl model_final.safetensors`` reads every form
that MODEL.WEIGHTS takes, without running what is in it, and leaves out all but the weights.
Detectors of torchvision and maskrcnn-benchmark get this package's names: docs/checkpoints.md.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model
from torch import nn

from fpn_d2 import load_config
from fpn_d2.checkpoint import convert_checkpoint
from fpn_d2.checkpoint.foreign import (
    SOURCES,
    Conversion,
    check_complete,
    convert_foreign,
    find_source,
    norm_eps_of,
)
from fpn_d2.checkpoint.foreign.torchvision_parity import (
    build_torchvision,
    compare_with_torchvision,
    noise_images,
)
from fpn_d2.utils.errors import UserError, exit_on_user_error

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
LEAST_MATCHED = 0.95  # of the detections, with --check


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", help="a checkpoint: .pth, .pkl, .pyth, .safetensors, or a URL")
    parser.add_argument("output", help="the file to write: .safetensors or .pth")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")
    parser.add_argument(
        "--from", dest="source", choices=SOURCES, help="whose names it has; default: as they look"
    )
    parser.add_argument("--config-file", help="of the model; default: the source's in configs/")
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
        "--check",
        type=int,
        default=0,
        metavar="N",
        help="first compare with torchvision on N images",
    )
    return parser.parse_args()


class Converter:
    """The change between reading and writing."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.conversion: Conversion | None = None

    def __call__(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint under this package's names, once it is whole."""
        args, weights = self.args, checkpoint["model"]
        if args.check < 0 or (args.norm_eps is not None and not 0 <= args.norm_eps < 1):
            raise UserError("--check takes a number of images, and --norm-eps one from 0 to 1")
        source = args.source or find_source(weights)
        if args.check and source != "torchvision":
            raise UserError(f"--check compares with torchvision, but the names are {source}'s")
        self.refuse_without_effect(source)
        if source == "detectron2":
            return checkpoint
        print(f"names of {source}" + ("" if args.source else ", as they look"))
        result = convert_foreign(
            args.input,
            weights,
            source,
            norm_eps=args.norm_eps,
            all_classes=args.all_classes,
            left_out=tuple(args.leave_out),
        )
        check_complete(result.weights, self.config(result))
        for note in result.notes:
            print(f"  {note}")
        self.conversion = result
        if args.check:
            self.compare(result, weights)
        return {"model": result.weights}

    def refuse_without_effect(self, source: str) -> None:
        """Refuse options that this source does not know."""
        args = self.args
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

    def config(self, conversion: Conversion) -> Any:
        """The config of the model, on the CPU."""
        path = self.args.config_file or CONFIGS / conversion.config
        return load_config(path, [*conversion.overrides, "MODEL.DEVICE", "cpu"])

    def compare(self, conversion: Conversion, weights: dict[str, Any]) -> None:
        """Print how far the converted model is from torchvision's, and refuse another one."""
        original = {
            name: weight
            for name, weight in weights.items()
            if not any(re.search(p, name.removeprefix("module.")) for p in self.args.leave_out)
        }
        ours: nn.Module = build_model(self.config(conversion).clone()).eval()
        ours.load_state_dict(conversion.weights)
        eps = self.args.norm_eps
        eps = norm_eps_of(self.args.input, original) if eps is None else eps
        theirs = build_torchvision(original, eps)
        images = noise_images(self.args.check)
        differences = compare_with_torchvision(ours, theirs, images, conversion.labels)
        print(f"beside torchvision's model, on {len(images)} images of noise:")
        for name, value in differences.items():
            print(f"  {name:14}{value:.6g}")
        if differences["detections"] and differences["matched_share"] < LEAST_MATCHED:
            raise UserError(
                f"only {differences['matched_share']:.1%} of the detections are torchvision's, so "
                "nothing is written; give --norm-eps and --config-file as the model was trained "
                "with, or leave out --check"
            )


def main() -> None:
    """Read the command line, convert, say what was written."""
    args = parse()
    converter = Converter(args)
    with exit_on_user_error():
        written = convert_checkpoint(
            args.input, args.output, overwrite=args.force, change=converter
        )
        weights = written["model"]
        numbers = sum(weight.numel() for weight in weights.values())
        print(f"{args.output}: {len(weights)} tensors, {numbers:,} numbers")
        if converter.conversion is not None:
            path = args.config_file or f"configs/{converter.conversion.config}"
            words = [*converter.conversion.overrides, "MODEL.WEIGHTS", args.output]
            print(f"its config: --config-file {path} {' '.join(words)}")


if __name__ == "__main__":
    main()
