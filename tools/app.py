#!/usr/bin/env python
"""Open a local page to see what the pyramid does with an image, by model, threshold and Eq. 1.

python tools/app.py
python tools/app.py --model configs/quick/demo.yaml:output/demo/model_final.pth

Needs Gradio: pip install "fpn_d2[app]". Only this machine can open the page, unless --host says
otherwise.
"""

import argparse
import warnings

MAX_BYTES, MAX_PIXELS = 20_000_000, 25_000_000


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, models = parser.add_argument, "may be repeated; default: all trained models below --runs"
    add("--model", action="append", default=[], metavar="CONFIG:WEIGHTS", help=models)
    add("--runs", default="output", help="a folder; default: output")
    add("--host", default="127.0.0.1", help="default: this machine alone")
    add("--port", type=int, help="default: the first free one from 7860")
    add("--max-bytes", type=int, default=MAX_BYTES, help="largest upload; default: %(default)s")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="largest image; default: %(default)s")
    return parser


def main() -> None:
    """Read the command line and serve the page."""
    args = build_parser().parse_args()
    from fpn_d2.app import Limits, Session, find_models, parse_model
    from fpn_d2.app.interface import serve
    from fpn_d2.utils.devices import keep_freed_memory
    from fpn_d2.utils.errors import UserError, exit_on_user_error

    keep_freed_memory()
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    with exit_on_user_error():
        configs = {}
        for words in args.model:
            title, cfg = parse_model(words, taken=configs)
            configs[title] = cfg
        limits = Limits(args.max_bytes, args.max_pixels)
        session = Session(configs or find_models(args.runs), limits)
        if args.port is not None and not 0 < args.port < 65536:
            raise UserError(f"--port is {args.port}: give 1 to 65535")
        serve(session, args.host, args.port)


if __name__ == "__main__":
    main()
