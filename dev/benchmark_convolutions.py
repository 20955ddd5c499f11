#!/usr/bin/env python
"""Time the convolutions that this package computes differently from Detectron2, both ways.

oneDNN or Winograd's method computes 3 x 3 convolutions and the gradient of their weights. The box
head's first layer is a matrix product or a convolution. ``python dev/benchmark_convolutions.py``
prints medians, and docs/speed.md says what follows from them.
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


def measure_linear(repeats: int) -> Iterator[float]:
    """Yield median seconds of the box head's first layer, 1000 RoIs of 256 x 7 x 7 to 1024: forward
    as a product and as a convolution, then forward and backward."""
    import torch

    from fpn_d2.layers import ConvolvedLinear
    from fpn_d2.utils.timing import time_in_turn

    x = torch.randn(1000, 12544, requires_grad=True)
    layers = {kind: kind(12544, 1024) for kind in (torch.nn.Linear, ConvolvedLinear)}
    ways = {}
    for kind, layer in layers.items():
        ways["forward", kind] = torch.no_grad()(lambda layer=layer: layer(x))
    for kind, layer in layers.items():
        ways["both", kind] = lambda layer=layer: layer(x).sum().backward()
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
    heads = ["forward, s", "convolved, s", "forward and backward, s", "convolved, s"]
    print(tabulate([[*measure_linear(args.repeats)]], heads, "github", floatfmt=".3f"))
    print(f"medians of {args.repeats}, in turn")


if __name__ == "__main__":
    main()
