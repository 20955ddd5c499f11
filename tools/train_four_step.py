#!/usr/bin/env python
"""4-step training (Sec. 5.2, Table 5): one Faster R-CNN whose RPN and Fast R-CNN share features.

python tools/train_four_step.py --config-file configs/quick/Feature-Sharing/shared_R_18_FPN.yaml

trains the steps that are not done, resumes one that was cut, checks that the shared layers stayed
as they were, and leaves OUTPUT_DIR/model_final.pth.
"""

import argparse

from command import script


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--num-gpus", type=int, default=0)
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="for every step"
    )
    return parser


def main() -> None:
    """Read the command line, train what is missing, print the results."""
    args = build_parser().parse_args()
    from fpn_d2.config import find_config, load_config
    from fpn_d2.experiments import FourStep, Progress, Runner
    from fpn_d2.utils.errors import exit_on_user_error

    with exit_on_user_error(), Progress() as progress:
        folder = load_config(args.config_file, args.opts).OUTPUT_DIR
        runner = Runner(script("train_net.py"), args.num_gpus, progress)
        # Each step has a folder of its own.
        pairs = zip(args.opts[::2], args.opts[1::2], strict=True)
        opts = tuple(word for pair in pairs if pair[0] != "OUTPUT_DIR" for word in pair)
        training = FourStep(find_config(args.config_file), folder, opts)
        result = training.train(runner)
    for i, seconds in enumerate(result["steps"], start=1):
        print(f"step {i}: {seconds:.0f} s of training")
    for dataset, metrics in result["results"].items():
        numbers = [(key, metrics["bbox"][key]) for key in ("AP", "AP50")]
        texts = [f"{key} {'none' if value is None else f'{value:.1f}'}" for key, value in numbers]
        print(f"{dataset}: {', '.join(texts)}")
    # Without sharing there are two networks, in the folders of steps 1 and 2.
    print(training.weights if training.configs()[2] else folder)


if __name__ == "__main__":
    main()
