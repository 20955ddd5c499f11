#!/usr/bin/env python
"""Time the gradient of a convolution's weights, channels-last and of channels-first copies.

`python dev/benchmark_convolutions.py` prints seconds, the least of seven, on all threads; see
docs/speed.md.
"""

import argparse
import time

import torch
from tabulate import tabulate

# images, channels, height, width: the quick rows' P2 and P3, and those of an R-50 at 800 x 1088
SHAPES = (
    (8, 64, 80, 80),
    (8, 128, 40, 40),
    (1, 64, 200, 272),
    (1, 128, 100, 136),
    (1, 256, 50, 68),
    (1, 256, 100, 136),
    (1, 256, 200, 272),
)


def main() -> None:
    """Print a row for each shape."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = []
    for images, channels, height, width in SHAPES:
        last = {"memory_format": torch.channels_last}
        x = torch.randn(images, channels, height, width).contiguous(**last)
        weight = torch.randn(channels, channels, 3, 3).contiguous(**last)
        seconds = [float("inf")] * 2
        for _ in range(7):
            for i, copy in enumerate((False, True)):
                start = time.perf_counter()
                tensors = [t.contiguous() if copy else t for t in (x, x, weight)]
                how = (None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, [False, True, False])
                torch.ops.aten.convolution_backward(*tensors, *how)
                seconds[i] = min(seconds[i], time.perf_counter() - start)
        rows.append([f"{images} x {channels} x {height} x {width}", *seconds])
    print(tabulate(rows, ["maps", "channels-last", "copies"], "github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
