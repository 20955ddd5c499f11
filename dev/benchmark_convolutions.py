#!/usr/bin/env python
"""Time the convolutions that this package computes differently from Detectron2, both ways.

oneDNN or Winograd's method computes 3 x 3 convolutions and the gradient of their weights. If that
of the output is zero but at some cells, so does a sum over their windows. MKL or oneDNN multiplies
matrices, such as those of the box head's first layer.
``python dev/benchmark_convolutions.py`` prints medians, and docs/speed.md says what follows.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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
    computes it; the gradient channels-last, of channels-first copies, and by Winograd's method.
    Winograd's products are MKL's, then oneDNN's."""
    import torch

    from fpn_d2.layers import conv2d_by_winograd, transform_kernel, weight_gradient_by_winograd
    from fpn_d2.utils.timing import time_in_turn

    of_output, x, weight = last = _tensors(shape, torch.float32)
    how = (None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, [False, True, False])
    gradient = torch.ops.aten.convolution_backward

    def forward() -> None:
        conv2d_by_winograd(x, transform_kernel(weight))

    def backward() -> None:
        weight_gradient_by_winograd(x, of_output)

    ways = {
        "sum": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
        **_by_each_library("Winograd", forward),
        "channels-last": lambda: gradient(*last, *how),
        "copies": lambda: gradient(*(tensor.contiguous() for tensor in last), *how),
        **_by_each_library("gradient by Winograd", backward),
    }
    yield from map(statistics.median, time_in_turn(ways, repeats).values())


def measure_bfloat16(shape: tuple[int, int, int, int], repeats: int) -> Iterator[float]:
    """Yield median seconds in bfloat16: forward, with the transform of the kernel, the gradient of
    the input and that of the weights, each as oneDNN's sum and by Winograd's method."""
    import torch

    from fpn_d2.layers import conv2d_by_winograd, transform_kernel, weight_gradient_by_winograd
    from fpn_d2.utils.timing import time_in_turn

    half = torch.bfloat16
    of_output, x, weight = last = _tensors(shape, half)
    how = None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1
    gradient = torch.ops.aten.convolution_backward
    turned = weight.flip(2, 3).transpose(0, 1)
    ways = {
        "sum": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
        "Winograd": lambda: conv2d_by_winograd(x, transform_kernel(weight, half)),
        "of input": lambda: gradient(*last, *how, [True, False, False]),
        "by Winograd": lambda: conv2d_by_winograd(of_output, transform_kernel(turned, half)),
        "of weights": lambda: gradient(*last, *how, [False, True, False]),
        "of weights by Winograd": lambda: weight_gradient_by_winograd(x, of_output),
    }
    yield from map(statistics.median, time_in_turn(ways, repeats).values())


def measure_samples(shape: tuple[int, int, int, int], repeats: int) -> Iterator[float]:
    """Yield median seconds of the gradients of the input and the weights: by oneDNN's sum, and by
    the windows of 256 cells of each image, or of one in 16, which are found first; in float32 and,
    where the processor has that, in bfloat16."""
    import torch

    from fpn_d2.layers import gradients_at, sampled_cells
    from fpn_d2.utils.devices import has_bfloat16
    from fpn_d2.utils.timing import time_in_turn

    how = (1, 1), (1, 1), (1, 1)
    for dtype in (torch.float32, torch.bfloat16)[: 1 + has_bfloat16("cpu")]:
        of_output, *rest = _tensors(shape, dtype)
        cells = of_output.permute(0, 2, 3, 1).flatten(1, 2)
        for image in cells:
            image[torch.randperm(len(image))[min(256, len(image) // 16) :]] = 0
        wanted = None, *how, False, (0, 0), 1, [True, True, False]
        of_sum = functools.partial(torch.ops.aten.convolution_backward, of_output, *rest, *wanted)

        def of_windows(of_output=of_output, rest=rest) -> None:
            gradients_at(sampled_cells(of_output), of_output, *rest, *how, 1)

        ways = {"sum": of_sum, "windows": of_windows}
        yield from map(statistics.median, time_in_turn(ways, repeats).values())


def _tensors(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    """The gradient of a convolution's output, its input and its weights, channels-last."""
    import torch

    channels = shape[1]
    sizes = shape, shape, (channels, channels, 3, 3)
    last = {"memory_format": torch.channels_last}
    return [torch.randn(size, dtype=dtype).contiguous(**last) for size in sizes]


def measure_linear(repeats: int) -> Iterator[float]:
    """Yield median seconds of the box head's first layer, 1000 RoIs of 256 x 7 x 7 to 1024: forward
    by MKL and by oneDNN, then forward and backward."""
    import torch

    from fpn_d2.layers import FastLinear
    from fpn_d2.utils.timing import time_in_turn

    x, layer = torch.randn(1000, 12544, requires_grad=True), FastLinear(12544, 1024)
    ways = _by_each_library("forward", torch.no_grad()(lambda: layer(x)))
    ways |= _by_each_library("both", lambda: layer(x).sum().backward())
    yield from map(statistics.median, time_in_turn(ways, repeats).values())


def _by_each_library(name: str, call: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """Let MKL and oneDNN multiply the matrices of a call, whatever this processor prefers."""
    from fpn_d2.layers import cpu_kernels
    from fpn_d2.utils.modules import overridden

    def run(by_onednn: bool) -> None:
        with overridden(cpu_kernels, has_slow_matmul=lambda: by_onednn):
            call()

    libraries = {"MKL": False, "oneDNN": True}
    return {f"{name}, {of}": functools.partial(run, by) for of, by in libraries.items()}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def main() -> None:
    """Read the command line, time, print."""
    args = build_parser().parse_args()
    from tabulate import tabulate

    from fpn_d2.utils.devices import has_bfloat16, keep_freed_memory

    keep_freed_memory()  # as the programs of this package do
    names = {" x ".join(map(str, shape)): shape for shape in SHAPES}
    rows = [(name, *measure(shape, args.repeats)) for name, shape in names.items()]
    heads = ["maps", "forward, s", "Winograd, MKL", "oneDNN"]
    heads += ["gradient channels-last, s", "of copies, s", "Winograd, MKL", "oneDNN"]
    print(tabulate(rows, heads, "github", floatfmt=".3f"))
    if has_bfloat16("cpu"):
        rows = [(name, *measure_bfloat16(shape, args.repeats)) for name, shape in names.items()]
        heads = ["maps in bfloat16", "forward, s", "Winograd", "gradient of input, s", "Winograd"]
        heads += ["of weights, s", "Winograd"]
        print(tabulate(rows, heads, "github", floatfmt=".4f"))
    rows = [(name, *measure_samples(shape, args.repeats)) for name, shape in names.items()]
    heads = ["maps with 256 samples", "gradients, sum, s", "windows"]
    heads += ["bfloat16, sum, s", "windows"] if has_bfloat16("cpu") else []
    print(tabulate(rows, heads, "github", floatfmt=".4f"))
    heads = ["forward, MKL, s", "oneDNN", "forward and backward, MKL, s", "oneDNN"]
    print(tabulate([[*measure_linear(args.repeats)]], heads, "github", floatfmt=".3f"))
    print(f"medians of {args.repeats}, in turn")


if __name__ == "__main__":
    main()
