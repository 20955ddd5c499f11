#!/usr/bin/env python
"""Write the weights of a checkpoint as .safetensors, which cannot hold code, or as .pth.

``python tools/convert_checkpoint.py model_final.pkl model_final.safetensors`` reads every form
that MODEL.WEIGHTS takes, without running what is in it, and leaves out all but the weights.
"""

import argparse

from fpn_d2.checkpoint import convert_checkpoint
from fpn_d2.errors import exit_on_user_error


def main() -> None:
    """Read the command line, convert, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", help="a checkpoint: .pth, .pkl, .pyth, .safetensors, or a URL")
    parser.add_argument("output", help="the file to write: .safetensors or .pth")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")
    args = parser.parse_args()
    with exit_on_user_error():
        weights = convert_checkpoint(args.input, args.output, overwrite=args.force)["model"]
    numbers = sum(weight.numel() for weight in weights.values())
    print(f"{args.output}: {len(weights)} tensors, {numbers:,} numbers")


if __name__ == "__main__":
    main()
