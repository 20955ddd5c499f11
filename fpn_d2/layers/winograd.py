"""3 x 3 convolutions with a quarter of the multiplications, for CPUs with AVX2 alone.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), after Winograd:
F(4 x 4, 3 x 3) computes 4 x 4 cells of the output with 36 multiplications for each pair of channels
where the sum over the kernel takes 144. oneDNN has it for no processor with AVX2 alone. It rounds
otherwise: its errors are some five times those of the sum, near 1e-5 of the values.

Shape shorthand: B images, C channels in and D out, H x W cells, T tiles.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..utils.devices import gains_by_winograd

# Fewer channels or cells gain no more than the transforms cost.
_LEAST_CHANNELS = 256
_LEAST_CELLS = 1500
# So many tiles fill a product of matrices, and what is made of them stays in the cache.
_TILES = 512

_CELLS = 4  # on a side of a tile of the output; a tile of the input has one more on each side
_SIDE = _CELLS + 2
# Lavin and Gray, Sec. 4.3: transforms of the input, the kernel and the output, B^T, G and A^T there
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL_24 = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # 24 G
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _both_ways(matrix: tuple) -> Tensor:
    """Return what transforms the rows and the columns of a flat tile in one product."""
    return torch.kron(torch.tensor(matrix), torch.tensor(matrix)).float()


_OF_INPUT = _both_ways(_INPUT)  # (36, 36)
_OF_KERNEL = _both_ways(_KERNEL_24) / 24**2  # (36, 9)
_OF_OUTPUT = _both_ways(_OUTPUT)  # (16, 36)


def has_winograd(x: Tensor, weight: Tensor, *how: Any) -> bool:
    """Whether :func:`convolve` computes a convolution, and faster than the sum over its kernel.

    Args:
        x, weight: (B, C, H, W) and (D, C, k, k).
        how: stride, padding, dilation and groups, as :func:`F.conv2d` takes them.
    """
    return (
        how == ((1, 1), (1, 1), (1, 1), 1)
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and x.shape[2] * x.shape[3] >= _LEAST_CELLS
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and gains_by_winograd()
    )


def transform_kernel(weight: Tensor) -> Tensor:
    """Transform the weights (D, C, 3, 3) of a convolution; returns (36, C, D)."""
    cells = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_OF_KERNEL @ cells).view(_SIDE**2, *weight.shape[1::-1])


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 3 x 3 kernel, stride 1 and a padding of 1.

    Args:
        x: (B, C, H, W), float32; channels-last is the fast one.
        kernel: (36, C, D), see :func:`transform_kernel`.
        bias: (D,), or None.

    Returns:
        (B, D, H, W), channels-last.
    """
    batch, channels, height, width = x.shape
    down, across = _tiles_of(x)
    size = batch, down * _CELLS, across * _CELLS, kernel.shape[2]
    found, bias = x.new_empty(size), x.new_zeros(1) if bias is None else bias
    for image, first, tiles in _strips(x, 1):
        tiles = torch.bmm((_OF_INPUT @ tiles).view(_SIDE**2, -1, channels), kernel)
        tiles = (_OF_OUTPUT @ tiles.flatten(1)).view(_CELLS, _CELLS, -1, across, kernel.shape[2])
        place = found[image].view(down, _CELLS, across, _CELLS, -1)[first : first + tiles.shape[2]]
        torch.add(tiles.permute(2, 0, 3, 1, 4), bias, out=place)
    found = found[:, :height, :width].permute(0, 3, 1, 2)
    return found.contiguous(memory_format=torch.channels_last)


def gradient_of_weight(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the weights of a convolution as :func:`convolve` computes it.

    Args:
        x: (B, C, H, W), the convolution's input.
        gradient: (B, D, H, W), that of its output.

    Returns:
        (D, C, 3, 3).
    """
    channels, channels_out = x.shape[1], gradient.shape[1]
    found = x.new_zeros(_SIDE**2, channels, channels_out)
    for (*_, of_x), (*_, of_output) in zip(_strips(x, 1), _strips(gradient, 0), strict=True):
        inputs = (_OF_INPUT @ of_x).view(_SIDE**2, -1, channels)
        outputs = (_OF_OUTPUT.t() @ of_output).view(_SIDE**2, -1, channels_out)
        found.baddbmm_(inputs.transpose(1, 2), outputs)
    cells = (_OF_KERNEL.t() @ found.flatten(1)).view(3, 3, channels, channels_out)
    return cells.permute(3, 2, 0, 1)


def _tiles_of(x: Tensor) -> tuple[int, int]:
    """Return how many tiles cover a map (B, C, H, W) from top to bottom and from left to right."""
    return -(-x.shape[2] // _CELLS), -(-x.shape[3] // _CELLS)


def _strips(x: Tensor, margin: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield some rows of tiles of a map after the other.

    Args:
        x: (B, C, H, W).
        margin: the cells that a tile has on each side beyond its 4 x 4, zero outside of the map.

    Yields:
        the image, the first row of tiles and the tiles, (cells of a tile, T C).
    """
    batch, channels, height, width = x.shape
    down, across = _tiles_of(x)
    side = _CELLS + 2 * margin
    x = F.pad(
        x, (margin, across * _CELLS + margin - width, margin, down * _CELLS + margin - height)
    )
    of_image, of_channel, of_row, of_cell = x.stride()
    strides = of_row, of_cell, _CELLS * of_row, _CELLS * of_cell, of_channel
    step = max(1, _TILES // across)
    for image in range(batch):
        for first in range(0, down, step):
            size = side, side, min(step, down - first), across, channels
            start = x.storage_offset() + image * of_image + first * _CELLS * of_row
            yield image, first, x.as_strided(size, strides, start).reshape(side**2, -1)
