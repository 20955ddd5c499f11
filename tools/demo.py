#!/usr/bin/env python
"""Draw what a model detects on images and videos, and how its pyramid gets there.

``python tools/demo.py --config-file C --weights W --input IMAGES|FOLDER|VIDEO --output DIR`` writes
a picture for each image and a video for each video, ``predictions.json`` in COCO's result form, and
``images.json``, which gives the file and the frame of each ``image_id``.
"""

import argparse

from fpn_d2.demo import MAX_PIXELS, parse_rows, run_demo
from fpn_d2.evaluation import score_threshold
from fpn_d2.utils.devices import keep_freed_memory
from fpn_d2.utils.errors import exit_on_user_error


def main() -> None:
    """Read the command line, run the demo, and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="", help="may be left out with a zoo name")
    parser.add_argument(
        "--weights",
        default="",
        help="a checkpoint, or a name of Detectron2's model zoo such as "
        "COCO-Detection/faster_rcnn_R_50_FPN_3x (default: MODEL.WEIGHTS)",
    )
    parser.add_argument("--input", nargs="+", required=True, help="images, videos and folders")
    parser.add_argument("--output", required=True, help="the folder for the files")
    parser.add_argument(
        "--confidence-threshold",
        "--threshold",
        dest="threshold",
        default="0.5",
        metavar="SCORE",
        help="least score of a detection; SCORE_THRESH_TEST applies to models with classes too; or "
        "best-f1: each class's own, as tools/analyze_results.py found it (default: %(default)s)",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="write NAME_explain.png: levels by Eq. 1, anchors, proposals and feature maps",
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="CONFIG:WEIGHTS",
        help="write NAME_compare.png, with this row beside the first; may be given several times",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help="the most pixels that an image may have, by its header (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY value ..., for all rows")
    args = parser.parse_args()
    keep_freed_memory()
    with exit_on_user_error():
        rows = parse_rows(args.config_file, args.weights, args.compare, args.opts)
        files = run_demo(
            rows,
            args.input,
            args.output,
            threshold=score_threshold(args.threshold),
            explain=args.explain,
            max_pixels=args.max_pixels,
            replace=args.force,
        )
        more = ", ..." if len(files) > 3 else ""
        print(f"wrote {len(files)} files: {', '.join(files[:3])}{more}")


if __name__ == "__main__":
    main()
