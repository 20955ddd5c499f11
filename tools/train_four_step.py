#!/usr/bin/env python
"""4-step training (Sec. 5.2, Table 5): one Faster R-CNN whose RPN and Fast R-CNN share features.

python tools/train_four_step.py --config-file configs/quick/Feature-Sharing/shared_R_18_FPN.yaml

trains the steps that are not done, resumes one that was cut, checks that the shared layers stayed
as they were, and leaves OUTPUT_DIR/model_final.pth.
"""

import argparse
import sys
from pathlib import Path

from fpn_d2 import load_config
from fpn_d2.experiments import FourStep, Run, Runner
from fpn_d2.utils.errors import exit_on_user_error

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Read the command line, train what is missing, print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--num-gpus", type=int, default=0)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY value pairs, for every step")
    args = parser.parse_args()
    with exit_on_user_error():
        folder = load_config(args.config_file, args.opts).OUTPUT_DIR
        runner = Runner(str(ROOT / "train_net.py"), args.num_gpus, _show)
        training = FourStep(args.config_file, folder, _without_output_dir(args.opts))
        result = training.train(runner)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    for i, seconds in enumerate(result["steps"], start=1):
        print(f"step {i}: {seconds:.0f} s of training")
    for dataset, metrics in result["results"].items():
        numbers = [(key, metrics["bbox"][key]) for key in ("AP", "AP50")]
        texts = [f"{key} {'none' if value is None else f'{value:.1f}'}" for key, value in numbers]
        print(f"{dataset}: {', '.join(texts)}")
    # Without sharing there are two networks, in the folders of steps 1 and 2.
    print(training.weights if training.configs()[2] else folder)


def _show(run: Run, done: int, total: int, seconds_left: float | None) -> None:
    """Show progress on a terminal, in one line that is written over; see :class:`Runner`."""
    if sys.stderr.isatty():
        left = "" if seconds_left is None else f", {seconds_left / 60:.1f} min left"
        print(f"\r{run.folder}: {done} of {total}{left}   ", end="", file=sys.stderr)


def _without_output_dir(opts: list[str]) -> tuple[str, ...]:
    """Return the overrides for every step; each step has a folder of its own."""
    pairs = zip(opts[::2], opts[1::2], strict=True)
    return tuple(word for key, value in pairs if key != "OUTPUT_DIR" for word in (key, value))


if __name__ == "__main__":
    main()
