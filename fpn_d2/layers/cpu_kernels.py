"""What CPUs compute faster than PyTorch does: matrix products, convolutions and their gradients.

- PyTorch multiplies float32 matrices by MKL, which does not use AVX-512 on AMD's processors. Where
  units are 512 bits wide (Zen 5), oneDNN takes less than half the time.
- A loss of few samples, such as an RPN's, has a gradient that is zero at most cells. Only the
  windows of the others contribute to the gradients of a convolution.
- No kernel of oneDNN has fewer multiplications than the sum over a 3 x 3 kernel. The method of
  Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), after Winograd,
  has: it transforms tiles of the input and the kernel, multiplies cell by cell and transforms back.

  - In float32 F(4 x 4, 3 x 3) computes 4 x 4 cells of the output with 36 multiplications for each
    pair of channels, a quarter of the sum's 144. Its errors are some five times the sum's, near
    1e-5 of the values.
  - In bfloat16 the same tiles would have errors of 2 % of the values, ten times the sum's. F(4, 3),
    along rows alone, halves the multiplications. Its errors are some three times the sum's, 0.3 to
    0.7 %, with transforms in float32. Down the columns oneDNN convolves.

Shape shorthand: B images, C channels in and D out, H x W cells, k x k cells of a kernel, K cells
with a gradient; N rows; T tiles, of 4 x 4 cells or of 4 cells of a row.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..utils.devices import gains_by_winograd, has_slow_matmul

# With more cells than one of so many, the sum over windows is not always faster.
_MOST_SAMPLED = 16
# With fewer channels or cells, the gain does not exceed the cost of the transforms.
_LEAST_WINOGRAD_CHANNELS = 256
_LEAST_WINOGRAD_CELLS = {torch.float32: 1500, torch.bfloat16: 12000}
# This many tiles fill a matrix product, and what is computed from them stays in the cache.
_TILES = 512
# This many values of a map are transformed at a time, and what is computed from them stays there.
_STRIP = 2**20
# A map with more values is convolved in bands, since what is computed from it takes three times its
# memory. P2 of 800 x 1333 px has half as many.
_BAND = 2**25

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
    """Return the matrix that transforms the rows and columns of a flat tile in one product."""
    return torch.kron(torch.tensor(matrix), torch.tensor(matrix)).float()


_OF_INPUT = _both_ways(_INPUT)  # (36, 36)
_OF_KERNEL = _both_ways(_KERNEL_24) / 24**2  # (36, 9)
_OF_OUTPUT = _both_ways(_OUTPUT)  # (16, 36)

# F(4, 3) evaluates polynomials at 0, 2/3, -2/3, 3/2, -3/2 and infinity. With 1 and 2 instead, as
# above, the errors in bfloat16 are 1.4 times as large.
_NEAR, _FAR = 2 / 3, 3 / 2  # whose product is 1
_PAIRS = (_NEAR, _FAR), (_FAR, _NEAR)
_SUM = _NEAR**2 + _FAR**2


def _kernel_of_rows() -> Tensor:
    rows = [(1.0, 0.0, 0.0)]
    for point, other in _PAIRS:
        scale = 1 / (2 * point**2 * (point**2 - other**2))
        rows += [(scale, sign * scale * point, scale * point**2) for sign in (1, -1)]
    return torch.tensor([*rows, (0.0, 0.0, 1.0)])


_OF_KERNEL_ROW = _kernel_of_rows()  # (6, 3)


# --- matrix products


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply matrices (N, C) and (C, D), and add a bias (D,)."""
    if by_onednn(a, b):  # the operator that torch.compile calls for linear layers
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)


def by_onednn(*factors: Tensor) -> bool:
    """Whether oneDNN multiplies tensors, faster than MKL but without a gradient."""
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in factors)
    return has_slow_matmul() and torch.backends.mkldnn.enabled and not needs_gradient


def products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices (36, N, C) and (36, C, D)."""
    if by_onednn(a, b):
        return torch.stack([product(*pair) for pair in zip(a, b, strict=True)])
    return torch.bmm(a, b)


def _without_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a function as ``torch.autocast(..., enabled=False)`` would, for several threads.

    That keeps the caller's precision in one object, where a thread would find another's.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)

    return run


# --- gradients that are zero at most cells


def sampled_cells(gradient: Tensor) -> Tensor | None:
    """Find the cells of a map where a gradient is not zero, if they are few.

    Args:
        gradient: (B, D, H, W).

    Returns:
        (K, 3) int64, image, row and column; None for more than one cell of 16.
    """
    most = gradient[:, 0].numel() // _MOST_SAMPLED
    if gradient[:, 0].count_nonzero() > most:  # dense ones end here, in no time
        return None
    cells = gradient.any(1).nonzero()
    return cells if len(cells) <= most else None


@_without_autocast
def gradients_at(
    cells: Tensor, gradient: Tensor, x: Tensor, weight: Tensor, *how: Any, for_x: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of a convolution if that of its output is zero but at some cells.

    Args:
        cells: (K, 3) int64, image, row and column of the output.
        gradient: (B, D, H', W'), the gradient of the output.
        x, weight: the input (B, C, H, W) and the weights (D, C, k, k).
        how: stride, padding and dilation, as :func:`F.conv2d` takes them, and groups, which is 1.
        for_x: whether the gradient of the input is wanted.

    Returns:
        the gradients of the input, channels-last and of its dtype, or None; of the weights; and of
        a bias, both float32.
    """
    batch, channels, height, width = x.shape
    image, row, column = cells.unbind(1)
    rows, columns = (
        cell[:, None] * stride - padding + dilation * torch.arange(size)
        for cell, size, stride, padding, dilation in zip(
            (row, column), weight.shape[2:], *how[:3], strict=True
        )
    )
    rows, columns = rows[:, :, None], columns[:, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # (K, k, k)
    places = ((image[:, None, None] * height + rows) * width + columns)[inside]

    of_output = gradient.permute(0, 2, 3, 1)[image, row, column].float()
    windows = of_output.new_zeros(*inside.shape, channels)
    windows[inside] = x.permute(0, 2, 3, 1).flatten(0, 2)[places].float()
    of_weight = (of_output.t() @ windows.flatten(1)).view(-1, *windows.shape[1:])
    others = of_weight.permute(0, 3, 1, 2), of_output.sum(0)
    if not for_x:
        return None, *others
    kernel = weight.to(x.dtype).float().permute(0, 2, 3, 1).flatten(1)
    of_windows = (of_output @ kernel).view_as(windows)[inside]
    places, numbers = places.unique(return_inverse=True)
    sums = of_output.new_zeros(len(places), channels).index_add_(0, numbers, of_windows)
    of_x = x.new_zeros(batch * height * width, channels)
    of_x[places] = sums.to(x.dtype)
    return of_x.view(batch, height, width, channels).permute(0, 3, 1, 2), *others


# --- Winograd's method


def has_winograd(x: Tensor, weight: Tensor, *how: Any) -> bool:
    """Whether :func:`conv2d_by_winograd` can compute a convolution, and faster than oneDNN's sum.

    Args:
        x, weight: the input (B, C, H, W) and the weights (D, C, k, k).
        how: stride, padding, dilation and groups, as :func:`F.conv2d` takes them.
    """
    return (
        is_wide(weight, *how, dtype=x.dtype)
        and x.dim() == 4
        and x.shape[2] * x.shape[3] >= _LEAST_WINOGRAD_CELLS[x.dtype]
        and has_dtype(weight, x.dtype)
    )


def has_dtype(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether weights are computed in a dtype; the plain layer has an error for others."""
    return weight.dtype == dtype or torch.is_autocast_enabled("cpu")


def is_wide(weight: Tensor, *how: Any, dtype: torch.dtype = torch.float32) -> bool:
    """Whether :func:`has_winograd` is true for large maps of a dtype."""
    return (
        how == ((1, 1), (1, 1), (1, 1), 1)
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= _LEAST_WINOGRAD_CHANNELS
        and dtype in _LEAST_WINOGRAD_CELLS
        and weight.dtype in (torch.float32, dtype)
        and weight.device.type == "cpu"
        and gains_by_winograd(dtype)
    )


@_without_autocast
def transform_kernel(weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Transform the weights of a convolution for maps of a dtype.

    Args:
        weight: (D, C, 3, 3), float32 or of that dtype.
        dtype: float32 or bfloat16.

    Returns:
        (36, C, D) in float32; (6, D, C, 3, 1) in bfloat16, kernels of one column.
    """
    if dtype == torch.float32:
        cells = weight.permute(2, 3, 1, 0).reshape(9, -1)
        return product(_OF_KERNEL, cells).view(_SIDE**2, *weight.shape[1::-1])
    cells = weight.permute(3, 0, 2, 1).float()
    columns = (_OF_KERNEL_ROW @ cells.flatten(1)).to(dtype)
    return columns.view(_SIDE, *cells.shape[1:3], 1, -1).permute(0, 1, 4, 2, 3)


@_without_autocast
def conv2d_by_winograd(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 3 x 3 kernel, stride 1 and a padding of 1.

    Args:
        x: (B, C, H, W), float32 or bfloat16; fastest if channels-last.
        kernel: see :func:`transform_kernel`.
        bias: (D,), or None.

    Returns:
        (B, D, H, W), channels-last.
    """
    batch, _, height, width = x.shape
    down, across = _tiles_of(x)
    if x.dtype == torch.float32:
        rows, channels_out, convolve = down * _CELLS, kernel.shape[2], _convolve
    else:
        rows, channels_out, convolve = height, kernel.shape[1], _convolve_rows
    found = x.new_empty(batch, rows, across * _CELLS, channels_out)
    convolve(x, kernel, x.new_zeros(1) if bias is None else bias, found)
    found = found[:, :height, :width].permute(0, 3, 1, 2)
    return found.contiguous(memory_format=torch.channels_last)


@_without_autocast
def weight_gradient_by_winograd(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the weights of :func:`conv2d_by_winograd`'s convolution, in float32.

    Args:
        x: (B, C, H, W), the convolution's input, float32 or bfloat16.
        gradient: (B, D, H, W), the gradient of its output, of the same dtype.

    Returns:
        (D, C, 3, 3).
    """
    return (_weight_gradient if x.dtype == torch.float32 else _weight_gradient_of_rows)(x, gradient)


# --- float32: tiles of 4 x 4 cells


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor, found: Tensor) -> None:
    """Write the output, with the cells of whole tiles (B, ..., ..., D), to ``found``."""
    channels, (down, across) = x.shape[1], _tiles_of(x)
    for image, first, tiles in _strips(x, 1):
        tiles = product(_OF_INPUT, tiles).view(_SIDE**2, -1, channels)
        tiles = product(_OF_OUTPUT, products(tiles, kernel).flatten(1))
        tiles = tiles.view(_CELLS, _CELLS, -1, across, kernel.shape[2])
        place = found[image].view(down, _CELLS, across, _CELLS, -1)[first : first + tiles.shape[2]]
        torch.add(tiles.permute(2, 0, 3, 1, 4), bias, out=place)


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    channels, channels_out = x.shape[1], gradient.shape[1]
    found = x.new_zeros(_SIDE**2, channels, channels_out)
    for (*_, of_x), (*_, of_output) in zip(_strips(x, 1), _strips(gradient, 0), strict=True):
        inputs = product(_OF_INPUT, of_x).view(_SIDE**2, -1, channels)
        outputs = product(_OF_OUTPUT.t(), of_output).view(_SIDE**2, -1, channels_out)
        if by_onednn(inputs, outputs):
            found += products(inputs.transpose(1, 2), outputs)
        else:
            found.baddbmm_(inputs.transpose(1, 2), outputs)
    cells = product(_OF_KERNEL.t(), found.flatten(1)).view(3, 3, channels, channels_out)
    return cells.permute(3, 2, 0, 1)


def _tiles_of(x: Tensor) -> tuple[int, int]:
    """Return how many tiles cover a map (B, C, H, W) from top to bottom and from left to right."""
    return -(-x.shape[2] // _CELLS), -(-x.shape[3] // _CELLS)


def _strips(x: Tensor, margin: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the tiles of a map, some rows of tiles at a time.

    Args:
        x: (B, C, H, W).
        margin: the cells that a tile has on each side beyond its 4 x 4, zero outside of the map.

    Yields:
        the numbers of the image and of the first row of tiles; the tiles, (cells of a tile, T C).
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


# --- bfloat16: tiles of 4 cells of a row


def _convolve_rows(x: Tensor, kernel: Tensor, bias: Tensor, found: Tensor) -> None:
    """Write the output, with the cells of whole tiles (B, H, 4 T, D), to ``found``."""
    for image, output in zip(x.permute(0, 2, 3, 1), found.unflatten(2, (-1, _CELLS)), strict=True):
        for own, inner, band in _bands(image):
            maps = _evaluate(band, _at_input, 1)
            maps = maps[:, None].permute(0, 1, 4, 2, 3)  # batches of one, channels-last
            maps = [F.conv2d(*pair)[0].permute(1, 2, 0) for pair in zip(maps, kernel, strict=True)]
            _write_cells([m[inner] for m in maps], bias, output[own])


def _bands(x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the bands of a map (H, W, C), which bound the memory that a huge one takes.

    Yields:
        the rows of the band in the map; these rows in the band; the band, which has a row of the
        map more on each side.
    """
    step = _rows_of(x, _BAND)
    for first in range(0, len(x), step):
        above, height = min(first, 1), min(step, len(x) - first)
        band = x[first - above : first + height + 1]
        yield slice(first, first + height), slice(above, above + height), band


def _write_cells(maps: Sequence[Tensor], bias: Tensor, output: Tensor) -> None:
    """Write the cells of tiles (H, T, 4, D), whose six values are (H, T, D) each, to ``output``."""
    step = _rows_of(maps[0], _STRIP // _CELLS)
    for first in range(0, len(output), step):
        strip = slice(first, first + step)
        for cell, values in enumerate(_cells([m[strip].float() for m in maps])):
            output[strip, :, cell] = values.add_(bias)


def _rows_of(x: Tensor, values: int) -> int:
    """Return how many rows of a map (..., W, C) have so many values, at least one."""
    return max(1, values // max(1, x.shape[-2] * x.shape[-1]))


def _weight_gradient_of_rows(x: Tensor, gradient: Tensor) -> Tensor:
    channels, channels_out = x.shape[1], gradient.shape[1]
    found = torch.zeros(_SIDE, 3, channels_out, channels)
    for image, of_output in zip(x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1), strict=True):
        for own, inner, band in _bands(image):
            inputs = _evaluate(band, _at_input, 1)
            outputs = _evaluate(of_output[own], _at_output, 0).flatten(1, 2).transpose(1, 2)
            for row in range(3):
                rows = inputs[:, inner.start + row : inner.stop + row].flatten(1, 2)
                found[:, row] += torch.bmm(outputs, rows)
    cells = (_OF_KERNEL_ROW.t() @ found.flatten(1)).view(3, 3, channels_out, channels)
    return cells.permute(2, 3, 1, 0)


def _evaluate(
    x: Tensor, at_points: Callable[[Sequence[Tensor]], Iterator[Tensor]], margin: int
) -> Tensor:
    """Evaluate the tiles of a map's rows at the six points, some rows at a time, in float32.

    Args:
        x: (H, W, C).
        at_points: yields the values at the points, each (rows, T, C), of the first, second, ...
            cells of tiles.
        margin: the rows and cells beyond the map, zero, that are evaluated too.

    Returns:
        (6, H + 2 margin, T, C), of the dtype of ``x``.
    """
    height, width, channels = x.shape
    across, step = -(-width // _CELLS), _rows_of(x, _STRIP)
    found = x.new_empty(_SIDE, height + 2 * margin, across, channels)
    found[:, :margin], found[:, margin + height :] = 0, 0
    cells = torch.zeros(min(step, height), across + 1, _CELLS, channels)
    for first in range(0, height, step):
        rows = x[first : first + step]
        cells.flatten(1, 2)[: len(rows), margin : margin + width] = rows
        tiles = [cells[: len(rows), i // _CELLS :, i % _CELLS][:, :across] for i in range(_SIDE)]
        place = slice(margin + first, margin + first + len(rows))
        for point, values in enumerate(at_points(tiles)):
            found[point, place] = values
    return found


def _at_input(cells: Sequence[Tensor]) -> Iterator[Tensor]:
    """Evaluate six cells of the input: B^T of Lavin and Gray for these points."""
    yield torch.sub(cells[0] + cells[4], cells[2], alpha=_SUM)
    for point, other in _PAIRS:
        even = torch.sub(cells[4], cells[2], alpha=other**2)
        odd = torch.sub(cells[3], cells[1], alpha=other**2)
        yield torch.add(even, odd, alpha=point)
        yield torch.sub(even, odd, alpha=point)
    yield torch.sub(cells[1] + cells[5], cells[3], alpha=_SUM)


def _at_output(cells: Sequence[Tensor]) -> Iterator[Tensor]:
    """Evaluate four cells of the output's gradient: A."""
    yield cells[0]
    for point, _ in _PAIRS:
        even = torch.add(cells[0], cells[2], alpha=point**2)
        odd = torch.add(cells[1], cells[3], alpha=point**2)
        yield torch.add(even, odd, alpha=point)
        yield torch.sub(even, odd, alpha=point)
    yield cells[3]


def _cells(at: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the four cells of the output whose values at the points are given: A^T."""
    even_near, odd_near = at[1] + at[2], at[1] - at[2]
    even_far, odd_far = at[3] + at[4], at[3] - at[4]
    yield (at[0] + even_near).add_(even_far)
    yield (_NEAR * odd_near).add_(odd_far, alpha=_FAR)
    yield (_NEAR**2 * even_near).add_(even_far, alpha=_FAR**2)
    yield torch.add(at[5], odd_near, alpha=_NEAR**3).add_(odd_far, alpha=_FAR**3)
