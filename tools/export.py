#!/usr/bin/env python
"""Export a detector as one ONNX or TorchScript file, and check it against the model.

python tools/export.py --config-file configs/quick/demo.yaml --weights output/demo/model_final.pth \
    --format onnx --output detector.onnx

Nothing is written if the file's detections are not the model's.
"""

import argparse
import os

from fpn_d2 import UserError, load_config, load_model
from fpn_d2.evaluation import class_thresholds, score_threshold
from fpn_d2.export import (
    FORMATS,
    check_export,
    check_output,
    check_report,
    export_model,
    read_check_images,
    report_parity,
    write_export,
)
from fpn_d2.inference import set_score_threshold
from fpn_d2.utils.errors import exit_on_user_error


def main() -> None:
    """Read the command line, export, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument(
        "--images",
        nargs="+",
        default=(),
        metavar="FILE",
        help="to check on; default: the first images of the config's test set",
    )
    parser.add_argument(
        "--confidence-threshold",
        default="",
        metavar="SCORE",
        help="least score of a detection, or best-f1: each class's own, as "
        "tools/analyze_results.py found it (default: the config's SCORE_THRESH_TEST)",
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")
    parser.add_argument(
        "--report", default="", metavar="JSON", help="add the check's numbers to it"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    with exit_on_user_error():
        check_output(args.output, args.force)
        if args.report:
            check_report(args.report)
        opts = [*args.opts, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", args.weights]
        cfg = load_config(args.config_file, opts)
        threshold = args.confidence_threshold and class_thresholds(
            score_threshold(args.confidence_threshold), cfg
        )
        images = read_check_images(cfg, args.images)
        model = load_model(cfg)
        if threshold != "":
            set_score_threshold(model, threshold)
        exported = export_model(cfg, model, args.format)
        parity = check_export(exported, model, images)
        print(parity.summary())
        if args.report:
            name = os.path.splitext(os.path.basename(args.config_file))[0]
            report_parity(args.report, name, args.format, parity)
        if not parity.is_within_tolerance:
            raise UserError(
                "that is not close enough to the model, so nothing was written; check on other "
                "images by --images, or try another --format"
            )
        write_export(exported, args.output, args.force)
        print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
