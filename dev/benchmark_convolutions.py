#!/usr/bin/env python
"""Time 3 x 3 convolutions and the gradient of their weights, by oneDNN and by Winograd's method.

``python dev/benchmark_convolutions.py`` prints medians; docs/speed.md says what follows.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

# Images, channels, height and width: P2 and P3 of the quick rows, and an R-50 at 800 x 1088.
SHAPES = (
    (8, 64, 80, 80),
    (8, 128, 40, 40),
    (1, 64, 200, 272),
    (1, 128, 100, 136),
    (1, 256, 50, 68),
    (1, 256, 100, 136),
    (1, 256, 200, 272),
)


def measure(shape: tuple[int, int, int, int], repeats: int) -> Iterator[float]:
    """Yield median seconds: forward channels-last and by Winograd's method, as a trained layer
    computes it; the gradient channels-last, of channels-first copies, and by Winograd's method."""
    import torch

    from fpn_d2.layers import conv2d_by_winograd, transform_kernel, weight_gradient_by_winograd
    from fpn_d2.utils.timing import time_in_turn

    channels = shape[1]
    last = [torch.randn(s) for s in (shape, shape, (channels, channels, 3, 3))]
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in last]
    of_output, x, weight = last
    how = (None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, [False, True, False])
    gradient = torch.ops.aten.convolution_backward
    ways = {
        "sum": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
        "Winograd": lambda: conv2d_by_winograd(x, transform_kernel(weight)),
        "channels-last": lambda: gradient(*last, *how),
        "copies": lambda: gradient(*(tensor.contiguous() for tensor in last), *how),
        "gradient by Winograd": lambda: weight_gradient_by_winograd(x, of_output),
    }
    yield from map(statistics.median, time_in_turn(ways, repeats).values())


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def main() -> None:
    """Read the command line, time, print."""
    args = build_parser().parse_args()
    from tabulate import tabulate

    from fpn_d2.utils.devices import keep_freed_memory

    keep_freed_memory()  # as the programs of this package do
    rows = [(" x ".join(map(str, shape)), *measure(shape, args.repeats)) for shape in SHAPES]
    heads = ["maps", "forward, s", "by Winograd, s"]
    heads += ["gradient channels-last, s", "of copies, s", "by Winograd, s"]
    print(tabulate(rows, heads, "github", floatfmt=".3f"))
    print(f"medians of {args.repeats}, in turn")


if __name__ == "__main__":
    main()
