#!/usr/bin/env python
"""Draw what a model detects on images and videos, and how its pyramid gets there.

python tools/demo.py --config-file C --weights W --images IMAGES|FOLDER|VIDEO|URL --output DIR
python tools/demo.py --config-file C --weights W --images photo.jpg --output found.jpg
python tools/demo.py --config-file C --weights W --webcam

DIR gets a picture for each image and a video for each video, predictions.json in COCO's result
form, and images.json, which gives the file and the frame of each image_id.
"""

import argparse
import signal
import sys
import warnings

MAX_PIXELS = 64_000_000


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser, which has the options of Detectron2's demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="may be left out with a zoo name")
    add(
        "--weights",
        default="",
        metavar="FILE",
        help="a checkpoint, or a name of Detectron2's model zoo such as "
        "COCO-Detection/faster_rcnn_R_50_FPN_3x (default: MODEL.WEIGHTS)",
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--images",
        "--input",
        "--video-input",
        dest="input",
        nargs="+",
        metavar="FILE",
        help="images, videos, folders, patterns such as 'photos/*.jpg', and URLs",
    )
    given.add_argument(
        "--webcam", action="store_true", help="show what a camera sees in a window, until Esc"
    )
    add("--output", default="", metavar="DIR", help="or, for a single input, the file to write")
    add(
        "--confidence-threshold",
        "--threshold",
        dest="threshold",
        default="0.5",
        metavar="SCORE",
        help="least score of a detection; SCORE_THRESH_TEST applies to models with classes too; or "
        "best-f1: each class's own, as tools/analyze_results.py found it (default: %(default)s)",
    )
    add(
        "--explain",
        action="store_true",
        help="write NAME_explain.png: levels by Eq. 1, anchors, proposals and feature maps",
    )
    add(
        "--compare",
        action="append",
        default=[],
        metavar="CONFIG:WEIGHTS",
        help="write NAME_compare.png, with this row beside the first; may be given several times",
    )
    add(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="the most pixels that an image may have, by its header (default: %(default)s)",
    )
    add("--force", action="store_true", help="replace files that exist")
    add(
        "--opts", action="store_true", dest="opts_follow", help="Detectron2's word before KEY VALUE"
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="for all rows, last of all")
    return parser


def main() -> None:
    """Read the command line, run the demo, and print what was written."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.webcam and not args.output:
        parser.error("--output is missing; name a folder, or for a single input a file")
    if args.webcam and (args.output or args.explain or args.compare):
        parser.error("--webcam shows a window; leave out --output, --explain and --compare")
    from fpn_d2.demo import parse_rows, run_demo, show_webcam
    from fpn_d2.evaluation.score_thresholds import score_threshold
    from fpn_d2.utils.devices import keep_freed_memory
    from fpn_d2.utils.errors import exit_on_user_error

    keep_freed_memory()
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is found by then is written
    with exit_on_user_error():
        threshold = score_threshold(args.threshold)
        rows = parse_rows(args.config_file, args.weights, args.compare, args.opts)
        if args.webcam:
            show_webcam(rows, threshold=threshold)
            return
        files = run_demo(
            rows,
            args.input,
            args.output,
            threshold=threshold,
            explain=args.explain,
            max_pixels=args.max_pixels,
            replace=args.force,
        )
        more = ", ..." if len(files) > 3 else ""
        print(f"wrote {len(files)} files: {', '.join(files[:3])}{more}")


if __name__ == "__main__":
    main()
