#!/usr/bin/env python
"""Show which mistakes a trained detector makes: kinds of error, curves, thresholds, worst images.

python tools/analyze_results.py output/quick/Faster-RCNN/faster_rcnn_R_18_FPN

Reads what an evaluation of train_net.py left in RUN/inference/ and writes RUN/analysis.html and
RUN/analysis.json, which tools/demo.py and tools/export.py read for --confidence-threshold best-f1.
"""

import argparse
import os


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="the OUTPUT_DIR of a training or an evaluation")
    add("--config-file", metavar="FILE", default="", help="of the model; default: RUN/config.yaml")
    add("--output", metavar="DIR", default="", help="default: RUN")
    add("--num-images", type=int, default=12, help="of the worst, to draw; default: %(default)s")
    add(
        "--confidence-threshold",
        metavar="SCORE",
        default="best-f1",
        help="least score in the confusion matrix and the pictures; default: each class's best",
    )
    return parser


def main() -> None:
    """Read the command line, analyse, write, print the summary."""
    args = build_parser().parse_args()
    from fpn_d2 import load_config
    from fpn_d2.evaluation.score_thresholds import score_threshold
    from fpn_d2.inspection.analysis_page import analysis_files, analysis_summary, write_analysis
    from fpn_d2.inspection.evaluated_sets import analyze_run
    from fpn_d2.utils.errors import UserError, exit_on_user_error

    with exit_on_user_error():
        if args.num_images < 0:
            raise UserError(f"--num-images is {args.num_images}: give 0 or more")
        threshold = score_threshold(args.confidence_threshold)
        if not os.path.isdir(args.run):
            raise UserError(f"{args.run} is no folder; name the OUTPUT_DIR of train_net.py")
        config = args.config_file or os.path.join(args.run, "config.yaml")
        if not os.path.isfile(config) and not args.config_file:
            raise UserError(
                f"{args.run} holds no config.yaml, which train_net.py writes; name the OUTPUT_DIR "
                "of a training, or give --config-file"
            )
        analysis_files(args.output or args.run)  # refused before the work
        analyses, faults = analyze_run(args.run, load_config(config, ["MODEL.DEVICE", "cpu"]))
        files = write_analysis(
            analyses, args.run, args.output, threshold=threshold, images=args.num_images
        )
        for analysis in analyses:
            print(analysis_summary(analysis))
        for fault in faults:
            print(f"left out: {fault}")
        print(f"wrote {' and '.join(files)}")


if __name__ == "__main__":
    main()
