"""Convolutions and linear layers that CPUs compute faster than PyTorch's, and exact group norms.

- With AVX2 alone, oneDNN has no fast kernel for the weight gradient of channels-last maps: on large
  maps that of a 3 x 3 convolution takes two to four times as long as channels-first with copies. On
  every CPU it has none for the weight gradient of the stem beyond 2^23 pixels.
- No kernel of oneDNN needs fewer multiplications than the sum over a 3 x 3 kernel. The method of
  Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), after Winograd,
  needs a quarter: F(4 x 4, 3 x 3) computes 4 x 4 cells of the output with 36 for each pair of
  channels, the sum with 144. Its errors are some five times the sum's, near 1e-5 of the values.
- PyTorch multiplies float32 matrices by MKL, which does not use AVX-512 on AMD's processors. Where
  units are 512 bits wide (Zen 5), oneDNN takes less than half the time.

Shape shorthand: B images, C channels in and D out, H x W cells, T tiles of 4 x 4 cells, N rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from ..utils.devices import (
    gains_by_winograd,
    has_slow_channels_last_gradient,
    has_slow_matmul,
)
from ..utils.modules import recast

# With fewer channels or cells, the gain does not exceed the cost of the copies.
_LEAST_CHANNELS = 64
_LEAST_CELLS = 1500
# For one image with few channels and more cells, oneDNN takes its reference kernel, for minutes.
_STEM_CHANNELS = range(1, 16)
_LEAST_STEM_CELLS = 2**23
# With fewer channels, the gain does not exceed the cost of the transforms.
_LEAST_WINOGRAD_CHANNELS = 256
# For smaller linear layers or fewer rows, a call costs more than the product.
_LEAST_WEIGHTS = 2**19
_LEAST_ROWS = 64
# This many tiles fill a matrix product, and what is computed from them stays in the cache.
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
    """Return the matrix that transforms the rows and columns of a flat tile in one product."""
    return torch.kron(torch.tensor(matrix), torch.tensor(matrix)).float()


_OF_INPUT = _both_ways(_INPUT)  # (36, 36)
_OF_KERNEL = _both_ways(_KERNEL_24) / 24**2  # (36, 9)
_OF_OUTPUT = _both_ways(_OUTPUT)  # (16, 36)


def has_winograd(x: Tensor, weight: Tensor, *how: Any) -> bool:
    """Whether :func:`conv2d_by_winograd` can compute a convolution, and faster than oneDNN's sum.

    Args:
        x, weight: the input (B, C, H, W) and the weights (D, C, k, k).
        how: stride, padding, dilation and groups, as :func:`F.conv2d` takes them.
    """
    return (
        _is_winograds(weight, *how)
        and x.dim() == 4
        and x.shape[2] * x.shape[3] >= _LEAST_CELLS
        and x.dtype == torch.float32
    )


def _is_winograds(weight: Tensor, *how: Any) -> bool:
    """Whether :func:`has_winograd` is true for large maps."""
    return (
        how == ((1, 1), (1, 1), (1, 1), 1)
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= _LEAST_WINOGRAD_CHANNELS
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and gains_by_winograd()
    )


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply matrices (N, C) and (C, D), and add a bias (D,)."""
    if _by_onednn(a, b):  # the operator that torch.compile calls for linear layers
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)


def _by_onednn(*factors: Tensor) -> bool:
    """Whether oneDNN multiplies tensors, faster than MKL but without a gradient."""
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in factors)
    return has_slow_matmul() and torch.backends.mkldnn.enabled and not needs_gradient


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices (36, N, C) and (36, C, D)."""
    if _by_onednn(a, b):
        return torch.stack([_product(*pair) for pair in zip(a, b, strict=True)])
    return torch.bmm(a, b)


def transform_kernel(weight: Tensor) -> Tensor:
    """Transform the weights (D, C, 3, 3) of a convolution; returns (36, C, D)."""
    cells = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return _product(_OF_KERNEL, cells).view(_SIDE**2, *weight.shape[1::-1])


def conv2d_by_winograd(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 3 x 3 kernel, stride 1 and a padding of 1.

    Args:
        x: (B, C, H, W), float32; fastest if channels-last.
        kernel: (36, C, D), see :func:`transform_kernel`.
        bias: (D,), or None.

    Returns:
        (B, D, H, W), channels-last.
    """
    batch, channels, height, width = x.shape
    down, across = _tiles_of(x)
    size = batch, down * _CELLS, across * _CELLS, kernel.shape[2]
    found = x.new_empty(size)
    bias = x.new_zeros(1) if bias is None else bias
    for image, first, tiles in _strips(x, 1):
        tiles = _product(_OF_INPUT, tiles).view(_SIDE**2, -1, channels)
        tiles = _product(_OF_OUTPUT, _products(tiles, kernel).flatten(1))
        tiles = tiles.view(_CELLS, _CELLS, -1, across, kernel.shape[2])
        place = found[image].view(down, _CELLS, across, _CELLS, -1)[first : first + tiles.shape[2]]
        torch.add(tiles.permute(2, 0, 3, 1, 4), bias, out=place)
    found = found[:, :height, :width].permute(0, 3, 1, 2)
    return found.contiguous(memory_format=torch.channels_last)


def weight_gradient_by_winograd(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the weights of :func:`conv2d_by_winograd`'s convolution.

    Args:
        x: (B, C, H, W), the convolution's input.
        gradient: (B, D, H, W), the gradient of its output.

    Returns:
        (D, C, 3, 3).
    """
    channels, channels_out = x.shape[1], gradient.shape[1]
    found = x.new_zeros(_SIDE**2, channels, channels_out)
    for (*_, of_x), (*_, of_output) in zip(_strips(x, 1), _strips(gradient, 0), strict=True):
        inputs = _product(_OF_INPUT, of_x).view(_SIDE**2, -1, channels)
        outputs = _product(_OF_OUTPUT.t(), of_output).view(_SIDE**2, -1, channels_out)
        if _by_onednn(inputs, outputs):
            found += _products(inputs.transpose(1, 2), outputs)
        else:
            found.baddbmm_(inputs.transpose(1, 2), outputs)
    cells = _product(_OF_KERNEL.t(), found.flatten(1)).view(3, 3, channels, channels_out)
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


class _Convolution(torch.autograd.Function):
    """A convolution of channels-last maps: x (B, C, H, W), weight (D, C, k, k), bias (D,)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any):
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else bias.shape
        ctx.how = how
        ctx.by_winograd = has_winograd(x, weight, *how)
        if ctx.by_winograd:
            # Detached, since a view that a Function returns cannot be changed in place.
            return conv2d_by_winograd(x, transform_kernel(weight), bias).detach()
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        for_x, _, for_bias = ctx.needs_input_grad[:3]  # the weight's is always needed
        if ctx.by_winograd and not torch.is_grad_enabled():  # it has no double backward
            turned = weight.flip(2, 3).transpose(0, 1)
            return (
                conv2d_by_winograd(gradient, transform_kernel(turned)) if for_x else None,
                weight_gradient_by_winograd(x, gradient),
                gradient.sum((0, 2, 3)) if for_bias else None,
                *(None, None, None, None),
            )

        def gradients(of: Sequence[Tensor], wanted: list[bool]) -> tuple[Tensor | None, ...]:
            how = (ctx.bias_sizes, stride, padding, dilation, False, (0, 0), groups, wanted)
            return torch.ops.aten.convolution_backward(*of, *how)

        found = gradients((gradient, x, weight), [for_x, False, False])[0] if for_x else None
        first = [t.contiguous() for t in (gradient, x, weight)]
        return found, *gradients(first, [False, True, for_bias])[1:], None, None, None, None


def _how(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.stride, layer.padding, layer.dilation, layer.groups


class FastGradientConv2d(Conv2d):
    """Detectron2's :class:`Conv2d` with a faster weight gradient; equal up to rounding.

    Where it is wide, Winograd's method computes the output and the input's gradient too.
    TorchScript does not compile it: it is meant for training.

    Attributes:
        least_cells: the least H W at which the faster gradient is used.
    """

    least_cells = _LEAST_CELLS

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Conv2d`; (B, C, H, W) to (B, D, H', W')."""
        if (
            not torch.jit.is_tracing()
            and not torch.compiler.is_compiling()
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.shape[-2] * x.shape[-1] >= self.least_cells
            and self.weight.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
        ):
            x = _Convolution.apply(x, self.weight, self.bias, *_how(self))
            x = x if self.norm is None else self.norm(x)
            return x if self.activation is None else self.activation(x)
        return super().forward(x)


def speed_up_gradients(model: nn.Module) -> None:
    """Turn a channels-last model's larger convolutions into :class:`FastGradientConv2d`, in place.

    It takes large layers where :func:`fpn_d2.utils.devices.has_slow_channels_last_gradient` holds,
    wide ones where :func:`fpn_d2.utils.devices.gains_by_winograd` holds, and, for huge images, a
    stem that trains, whose input has few channels. Weights and their names stay.
    """
    every = has_slow_channels_last_gradient()
    for layer in model.modules():
        if (
            type(layer) is not Conv2d
            or min(layer.kernel_size) == 1
            or layer.groups > 1
            or isinstance(layer.padding, str)  # such as "same"
            or layer.weight.dtype != torch.float32
        ):
            continue
        if layer.in_channels in _STEM_CHANNELS and layer.weight.requires_grad:
            recast(layer, FastGradientConv2d, least_cells=_LEAST_STEM_CELLS)
        elif min(layer.in_channels, layer.out_channels) >= _LEAST_CHANNELS and (
            every or _is_winograds(layer.weight, *_how(layer))
        ):
            recast(layer, FastGradientConv2d)


class WinogradConv2d(FastGradientConv2d):
    """Detectron2's :class:`Conv2d` without a norm, for inference; equal up to rounding.

    It transforms its weights at the first map that is large enough. It keeps the result, and a copy
    of the weights to notice that they have changed: five times their memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Conv2d`; (B, C, H, W) to (B, D, H', W')."""
        if (
            torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or not has_winograd(x, self.weight, *_how(self))
        ):
            return super().forward(x)
        # Weights may be replaced or changed in place, also by ``.data``, which no version counts.
        weight, kernel = self.transformed
        if weight is None or not torch.equal(weight, self.weight):
            kernel = transform_kernel(self.weight)
            self.transformed = self.weight.detach().clone(), kernel
        x = conv2d_by_winograd(x, kernel, self.bias)
        return x if self.activation is None else self.activation(x)


def wide_convolutions(model: nn.Module) -> list[nn.Module]:
    """Find the convolutions without a norm that Winograd's method makes faster on large maps.

    There are none on CPUs where :func:`fpn_d2.utils.devices.gains_by_winograd` is False.
    """
    return [
        module
        for module in model.modules()
        if type(module) in (nn.Conv2d, Conv2d, FastGradientConv2d)
        and _is_winograds(module.weight, *_how(module))
        and getattr(module, "norm", None) is None
        and module.padding_mode == "zeros"
    ]


def speed_up_wide_convolutions(model: nn.Module) -> None:
    """Turn a model's :func:`wide_convolutions` into :class:`WinogradConv2d`, in place.

    Weights and their names stay.
    """
    for layer in wide_convolutions(model):
        activation = getattr(layer, "activation", None)
        recast(layer, WinogradConv2d, transformed=(None, None), norm=None, activation=activation)


def _product_of_rows(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as :func:`_product` does, in two steps if N is no multiple of 64.

    For each number of rows oneDNN makes a program and keeps it, with several MB.
    """
    rest = len(a) % _LEAST_ROWS
    if not rest:
        return _product(a, b, bias)
    last = _product(a[-_LEAST_ROWS:], b, bias)
    return torch.cat([_product(a[:-rest], b, bias), last[-rest:]])


def _product_over_rows(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices (D, N) and (N, C), in two steps if N is no multiple of 64."""
    rest = len(b) % _LEAST_ROWS
    if not rest:
        return _product(a, b)
    return _product(a[:, :-rest], b[:-rest]).addmm_(a[:, -rest:], b[-rest:])


class _Linear(torch.autograd.Function):
    """A linear layer: x (N, C), weight (D, C), bias (D,)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _product_of_rows(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product_of_rows(gradient, weight) if for_x else None,
            _product_over_rows(gradient.t(), x) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


class FastLinear(nn.Linear):
    """An :class:`nn.Linear` that oneDNN computes; it equals the plain layer up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`nn.Linear`; (N, C) to (N, D).

        Few rows, other precisions, traces and compiled models take the plain layer.
        """
        if (
            torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or x.device.type != "cpu"
            or x.ndim != 2
            or len(x) < _LEAST_ROWS
            or x.shape[1] != self.in_features
            or not x.is_contiguous()
            or {x.dtype, self.weight.dtype} != {torch.float32}
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        return _Linear.apply(x, self.weight, self.bias)


def speed_up_linears(model: nn.Module) -> None:
    """Turn a model's large linear layers into :class:`FastLinear`, in place.

    It does nothing on CPUs where :func:`fpn_d2.utils.devices.has_slow_matmul` is False. Weights and
    their names stay.
    """
    if not has_slow_matmul():
        return
    for layer in model.modules():
        if (
            type(layer) is nn.Linear
            and layer.weight.device.type == "cpu"
            and layer.weight.dtype == torch.float32
            and layer.weight.numel() >= _LEAST_WEIGHTS
        ):
            recast(layer, FastLinear)


class SteadyGroupNorm(nn.GroupNorm):
    """An :class:`nn.GroupNorm` that is exact on channels-last maps that are nearly flat.

    There PyTorch's kernel for CPUs is off by several standard deviations.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See :class:`nn.GroupNorm`."""
        # Three dimensions have no channels-last form, which a map of one cell always has.
        x = input.flatten(2) if input.device.type == "cpu" and input.ndim == 4 else input
        x = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return x.view(input.shape)


def steady_group_norms(model: nn.Module) -> None:
    """Let group norms of a channels-last model normalize channels-first on a CPU."""
    for module in model.modules():
        if type(module) is nn.GroupNorm:
            recast(module, SteadyGroupNorm)
