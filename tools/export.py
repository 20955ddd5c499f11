#!/usr/bin/env python
"""Export a detector as ONNX, TorchScript or for OpenVINO, and check the file against the model.

python tools/export.py --config-file configs/quick/demo.yaml --weights output/demo/model_final.pth \
    --format onnx --output detector.onnx
python tools/export.py --config-file configs/quick/demo.yaml --weights output/demo/model_final.pth \
    --format openvino --int8 --output detector.xml

Nothing is written if the file's detections are not the model's. For an int8 file, the float32 file
is checked in this way, and the AP of both on the test set is printed.
"""

import argparse
import os

FORMATS = ("onnx", "torchscript", "openvino")


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE")
    add("--weights", required=True, metavar="FILE", help="or a zoo name")
    add("--format", required=True, choices=FORMATS)
    add("--output", required=True, metavar="FILE")
    add(
        "--images",
        nargs="+",
        default=(),
        metavar="FILE",
        help="to check on; default: the first images of the config's test set",
    )
    add(
        "--confidence-threshold",
        default="",
        metavar="SCORE",
        help="least score of a detection, or best-f1: each class's own, as "
        "tools/analyze_results.py found it (default: the config's SCORE_THRESH_TEST)",
    )
    add("--int8", action="store_true", help="OpenVINO only: quantized on images of DATASETS.TRAIN")
    add(
        "--validation-images",
        type=int,
        default=500,
        metavar="N",
        help="with --int8: the AP is that of the first N images of DATASETS.TEST (default: 500)",
    )
    add("--force", action="store_true", help="replace the output if it is there")
    add(
        "--json",
        "--report",
        dest="report",
        default="",
        metavar="FILE",
        help="add the check's numbers to this file",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser


def model_name(config_file: str) -> str:
    """Name a model in the report by its config, or by the folder of a run's own config.yaml."""
    folder, file = os.path.split(os.path.abspath(config_file))
    name = os.path.splitext(file)[0]
    return os.path.basename(folder) if name == "config" else name


def main() -> None:
    """Read the command line, export, check, write."""
    parser = build_parser()
    args = parser.parse_args()
    if args.int8 and args.format != "openvino":
        parser.error("--int8 needs --format openvino")
    if args.validation_images < 1:
        parser.error("--validation-images must be 1 or more")
    from fpn_d2 import UserError, load_config, load_model
    from fpn_d2.data import check_names
    from fpn_d2.evaluation.score_thresholds import class_thresholds, score_threshold
    from fpn_d2.export import (
        calibration_inputs,
        check_export,
        check_output,
        check_report,
        export_model,
        judge_int8,
        read_check_images,
        report_parity,
        write_export,
    )
    from fpn_d2.inference import check_weights, config_for, set_score_threshold
    from fpn_d2.inference.openvino_parts import require
    from fpn_d2.utils.errors import exit_on_user_error

    with exit_on_user_error():
        check_weights(args.weights, args.opts)
        check_output(args.output, args.force, args.format, args.weights)
        if args.report:
            check_report(args.report)
        opts = [*args.opts, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", args.weights]
        config_file = config_for(args.config_file, args.weights)
        cfg = load_config(config_file, opts)
        if args.int8:  # checked now, as it is made and judged only after minutes
            check_names(cfg.DATASETS.TEST[:1], "DATASETS.TEST")
            samples = calibration_inputs(cfg)
            require("nncf", "openvino nncf, or leave --int8 out")
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
        name = model_name(config_file)
        if args.report:
            report_parity(args.report, name, args.format, parity)
        if not parity.is_within_tolerance:
            raise UserError(
                "that is not close enough to the model, so nothing was written; check on other "
                "images by --images, or try another --format"
            )
        if args.int8:
            float32 = exported
            exported = export_model(cfg, model, args.format, samples)
            parity = check_export(exported, model, images)
            print(f"int8: {parity.summary()}")
            judged = judge_int8(cfg, float32, exported, args.validation_images)
            if threshold != "":
                print("of detections above the thresholds alone:")
                judged["thresholds"] = threshold
            print(
                f"{judged['metric']} on {judged['evaluated_images']} images of "
                f"{cfg.DATASETS.TEST[0]}: int8 {judged['int8']:.2f}, "
                f"float32 {judged['float32']:.2f}"
            )
            if args.report:
                report_parity(args.report, name, "openvino int8", parity, **judged)
        write_export(exported, args.output, args.force)
        print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
