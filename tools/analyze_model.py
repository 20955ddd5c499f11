#!/usr/bin/env python
"""Count a network's FLOPs, activations and parameters, as Detectron2's tools/analyze_model.py.

python tools/analyze_model.py --config-file configs/quick/demo.yaml --tasks parameter structure
python tools/analyze_model.py --config-file configs/quick/demo.yaml --tasks flop activation -n 0

FLOPs and activations depend on the image, since proposals do: they are averaged over the first
images of the test set, with MODEL.WEIGHTS; or, with -n 0, counted on noise with random weights.
"""

import argparse
import itertools
import warnings

TASKS = ("flop", "activation", "parameter", "structure")


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE")
    add("--weights", default="", metavar="FILE", help="default: MODEL.WEIGHTS")
    add("--tasks", choices=TASKS, required=True, nargs="+")
    add("-n", "--num-inputs", type=int, default=100, help="images; default: %(default)s")
    add(
        "--use-fixed-input-size",
        action="store_true",
        help="cut or fill each image to MIN_SIZE_TEST x MIN_SIZE_TEST pixels",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser


def main() -> None:
    """Read the command line, and print what each task counts."""
    args = build_parser().parse_args()
    from detectron2.modeling import build_model

    from fpn_d2 import UserError, load_config, load_model
    from fpn_d2.config_checks import check_registered
    from fpn_d2.data import build_test_loader
    from fpn_d2.experiments.config_costs import analyze_model, noise_input
    from fpn_d2.inference import check_weights
    from fpn_d2.utils.errors import exit_on_user_error

    warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Detectron2's anchors
    with exit_on_user_error():
        check_weights(args.weights, args.opts)
        weights = ["MODEL.WEIGHTS", args.weights] if args.weights else []
        cfg = load_config(args.config_file, [*args.opts, *weights])
        counts = {"flop", "activation"} & set(args.tasks)
        if counts and args.use_fixed_input_size and not cfg.INPUT.MIN_SIZE_TEST:
            raise UserError(
                "--use-fixed-input-size needs INPUT.MIN_SIZE_TEST above 0; give it at the end"
            )
        if args.num_inputs <= 0 or not counts:
            check_registered(cfg)
            model, inputs = build_model(cfg), iter([noise_input(cfg)])
        elif not cfg.DATASETS.TEST:
            raise UserError("DATASETS.TEST names no data set; give one, or -n 0 for noise")
        else:
            model = load_model(cfg)
            loader = build_test_loader(cfg, cfg.DATASETS.TEST[0])
            inputs = itertools.islice(loader, args.num_inputs)
        if args.use_fixed_input_size:
            inputs = (_at_size(one, cfg.INPUT.MIN_SIZE_TEST) for one in inputs)
        for text in analyze_model(model, args.tasks, inputs):
            print(text)


def _at_size(inputs: list[dict], side: int) -> list[dict]:
    """Cut an image to a square, or fill it with zeros."""
    image = inputs[0]["image"][:, :side, :side]
    square = image.new_zeros(len(image), side, side)
    square[:, : image.shape[1], : image.shape[2]] = image
    return [{**inputs[0], "image": square}]


if __name__ == "__main__":
    main()
