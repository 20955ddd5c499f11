#!/usr/bin/env python
"""Time reading and writing a checkpoint with this package and with stock Detectron2, in turn.

``python dev/benchmark_checkpoint.py`` prints medians for the weights of a Faster R-CNN on
R-50-FPN (170 MB). Stock Detectron2 does not flush to the disk, so ours is also timed without the
flush.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from torch import nn


def medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each way, timed in turn."""
    from fpn_d2.utils.timing import seconds_of, time_in_turn

    def measure(way: Callable[[], object]) -> float:
        os.sync()  # or each way would pay for what the one before it left unwritten
        return seconds_of(way)

    seconds = time_in_turn(ways, repeats, measure=measure)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure(model: nn.Module, folder: str, repeats: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield what was timed, and the median seconds of each way."""
    from detectron2.checkpoint import DetectionCheckpointer

    from fpn_d2.checkpoint import SafeCheckpointer
    from fpn_d2.checkpoint.conversion import convert_checkpoint

    ours, stock = SafeCheckpointer(model, folder), DetectionCheckpointer(model, folder)

    ways = {
        "stock": lambda: stock.save("model_stock", iteration=1),
        # The flush is left to the operating system, as stock Detectron2 leaves it.
        "ours, no flush": mock.patch("os.fsync")(lambda _: ours.save("model_ours", iteration=1)),
        "ours": lambda: ours.save("model_ours", iteration=1),
    }
    yield "write .pth", medians(ways, repeats)
    pth, pkl = (os.path.join(folder, f"model_ours.{ending}") for ending in ("pth", "pkl"))
    safetensors = os.path.join(folder, "model.safetensors")
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    with open(pkl, "wb") as file:
        pickle.dump({"model": arrays, "__author__": "benchmark"}, file)
    convert_checkpoint(pth, safetensors)
    for path in (pth, pkl):
        ways = {"stock": partial(stock.load, path), "ours": partial(ours.load, path)}
        yield f"read {os.path.splitext(path)[1]}", medians(ways, repeats)
    yield "read .safetensors", medians({"ours": lambda: ours.load(safetensors)}, repeats)
    ways = {"ours": lambda: ours.resume_or_load("", resume=True)}
    yield "--resume, checksums too", medians(ways, repeats)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config-file", metavar="FILE", default="configs/Faster-RCNN/faster_rcnn_R_50_FPN.yaml"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", metavar="DIR", help="where to write; the disk that is timed")
    return parser


def main() -> None:
    """Read the command line, time, print."""
    args = build_parser().parse_args()
    from detectron2.modeling import build_model

    from fpn_d2 import load_config
    from fpn_d2.utils.errors import exit_on_user_error

    logging.disable(logging.WARNING)
    with exit_on_user_error(), tempfile.TemporaryDirectory(dir=args.output) as folder:
        model = build_model(load_config(args.config_file, ["MODEL.DEVICE", "cpu"]).clone())
        for name, seconds in measure(model, folder, args.repeats):
            first = next(iter(seconds.values()))
            figures = [f"{way} {s:.3f} s ({s / first:.2f})" for way, s in seconds.items()]
            print(f"{name:24}{', '.join(figures)}", flush=True)
        size = os.path.getsize(os.path.join(folder, "model_ours.pth"))
    print(f"medians of {args.repeats}, in turn; a checkpoint of {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
