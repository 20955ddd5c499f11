"""Layers that CPUs compute faster than PyTorch's, and exact group norms.

- With AVX2 alone, oneDNN has no fast kernel for the weight gradient of channels-last maps: on large
  maps that of a 3 x 3 convolution takes two to four times as long as channels-first with copies. On
  every CPU it has none for the weight gradient of the stem beyond 2^23 pixels.
- The gradient of an RPN's convolution comes from its few sampled anchors, wide convolutions are
  computed by Winograd's method, and large linear layers by oneDNN: see ``cpu_kernels``.

Shape shorthand: B images, C channels in and D out, H x W cells; N rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling import FPN
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from ..utils.devices import has_slow_channels_last_gradient, has_slow_matmul
from ..utils.modules import recast
from .cpu_kernels import (
    conv2d_by_winograd,
    gradients_at,
    has_dtype,
    has_winograd,
    is_wide,
    product,
    sampled_cells,
    transform_kernel,
    weight_gradient_by_winograd,
)

# With fewer channels or cells, the gain does not exceed the cost of the copies.
_LEAST_CHANNELS = 64
_LEAST_CELLS = 1500
# For one image with few channels and more cells, oneDNN takes its reference kernel, for minutes.
_STEM_CHANNELS = range(1, 16)
_LEAST_STEM_CELLS = 2**23
# For smaller linear layers or fewer rows, a call costs more than the product.
_LEAST_WEIGHTS = 2**19
_LEAST_ROWS = 64


# --- convolutions


def _as_computed(x: Tensor) -> Tensor:
    """Convert a tensor of a layer as autocast does, which leaves float64 and integers alone."""
    lowered = torch.float32, torch.float16, torch.bfloat16
    if torch.is_autocast_enabled("cpu") and x.device.type == "cpu" and x.dtype in lowered:
        return x.to(torch.get_autocast_dtype("cpu"))
    return x


class _Convolution(torch.autograd.Function):
    """A convolution of channels-last maps: x (B, C, H, W), weight (D, C, k, k), bias (D,).

    In autocast the input may be in bfloat16 and the rest in float32. ``of_samples`` tells whether
    the gradient may be zero at most cells.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        of_samples: bool,
        *how: Any,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else bias.shape
        ctx.of_samples, ctx.how = of_samples, how
        ctx.by_winograd = has_winograd(x, weight, *how)
        if ctx.by_winograd:
            # Detached, since a view that a Function returns cannot be changed in place.
            return conv2d_by_winograd(x, transform_kernel(weight, x.dtype), bias).detach()
        # Older versions of autocast keep what they convert for other levels, without its gradient.
        bias = None if bias is None else _as_computed(bias)
        return F.conv2d(x, _as_computed(weight), bias, *how)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        for_x, _, for_bias = ctx.needs_input_grad[:3]  # the weight's is always needed
        rest = None, None, None, None, None
        if not torch.is_grad_enabled():  # what follows has no double backward
            cells = sampled_cells(gradient) if ctx.of_samples else None
            if cells is not None:
                found = gradients_at(cells, gradient, x, weight, *ctx.how, for_x=for_x)
                return *found[:2], found[2] if for_bias else None, *rest
            if ctx.by_winograd:
                of_weight = weight_gradient_by_winograd(x, gradient)
                of_bias = gradient.sum((0, 2, 3)) if for_bias else None
                if not for_x:
                    return None, of_weight, of_bias, *rest
                turned = transform_kernel(weight.flip(2, 3).transpose(0, 1), x.dtype)
                return conv2d_by_winograd(gradient, turned), of_weight, of_bias, *rest

        weight = weight.to(x.dtype)

        def gradients(of: Sequence[Tensor], wanted: list[bool]) -> tuple[Tensor | None, ...]:
            how = (ctx.bias_sizes, stride, padding, dilation, False, (0, 0), groups, wanted)
            return torch.ops.aten.convolution_backward(*of, *how)

        if not _gains_by_copies(x, weight):
            return *gradients((gradient, x, weight), [for_x, True, for_bias]), *rest
        found = gradients((gradient, x, weight), [for_x, False, False])[0] if for_x else None
        first = [t.contiguous() for t in (gradient, x, weight)]
        return found, *gradients(first, [False, True, for_bias])[1:], *rest


def _gains_by_copies(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradient of a convolution's weights is faster channels-first."""
    is_stem = x.shape[1] in _STEM_CHANNELS and x.shape[2] * x.shape[3] >= _LEAST_STEM_CELLS
    is_large = min(weight.shape[:2]) >= _LEAST_CHANNELS and has_slow_channels_last_gradient()
    return x.dtype == torch.float32 and (is_stem or is_large)


def _how(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.stride, layer.padding, layer.dilation, layer.groups


class FastGradientConv2d(Conv2d):
    """Detectron2's :class:`Conv2d` with a faster gradient; equal up to rounding.

    Where it is wide, Winograd's method computes the output, too. TorchScript does not compile it:
    it is meant for training.

    Attributes:
        least_cells: the least H W at which the faster gradient is used.
        of_samples: whether the gradient may be zero at most cells, as below an RPN's loss.
    """

    least_cells, of_samples = _LEAST_CELLS, False

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Conv2d`; (B, C, H, W) to (B, D, H', W')."""
        if (
            torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or not torch.is_grad_enabled()
            or not self.weight.requires_grad
            or x.device.type != "cpu"
            or x.dim() != 4  # one image (C, H, W)
            or x.shape[-2] * x.shape[-1] < self.least_cells
            or not self.weight.is_contiguous(memory_format=torch.channels_last)
        ):
            return super().forward(x)
        x = _as_computed(x)
        if not (
            x.dtype == torch.float32
            or has_winograd(x, self.weight, *_how(self))
            or (self.of_samples and x.dtype == torch.bfloat16 and has_dtype(self.weight, x.dtype))
        ):
            return super().forward(x)
        x = _Convolution.apply(x, self.weight, self.bias, self.of_samples, *_how(self))
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def speed_up_gradients(model: nn.Module) -> None:
    """Turn a channels-last model's larger convolutions into :class:`FastGradientConv2d`, in place.

    It takes those of RPN heads and the outputs of pyramids; large layers where
    :func:`fpn_d2.utils.devices.has_slow_channels_last_gradient` holds; wide ones where
    :func:`fpn_d2.utils.devices.gains_by_winograd` holds; and, for huge images, a stem that trains,
    whose input has few channels. Weights and their names stay.
    """
    every = has_slow_channels_last_gradient()
    of_samples: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, RPN):
            of_samples.update(module.rpn_head.modules())
        elif isinstance(module, FPN):  # of an RPN that is trained alone
            of_samples.update(getattr(module, "output_convs", ()))  # a subclass may have others
    for layer in model.modules():
        if (
            type(layer) is not Conv2d
            or min(layer.kernel_size) == 1
            or layer.groups > 1
            or isinstance(layer.padding, str)  # such as "same"
            or layer.weight.dtype != torch.float32
        ):
            continue
        if layer in of_samples:
            recast(layer, FastGradientConv2d, of_samples=True)
        elif layer.in_channels in _STEM_CHANNELS and layer.weight.requires_grad:
            recast(layer, FastGradientConv2d, least_cells=_LEAST_STEM_CELLS)
        elif min(layer.in_channels, layer.out_channels) >= _LEAST_CHANNELS and (
            every or is_wide(layer.weight, *_how(layer))
        ):
            recast(layer, FastGradientConv2d)


class WinogradConv2d(FastGradientConv2d):
    """Detectron2's :class:`Conv2d` without a norm, for inference; equal up to rounding.

    It transforms its weights at the first map that is large enough. It keeps the result, and a copy
    of the weights to notice that they have changed: in float32 five times their memory, in bfloat16
    three times.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Conv2d`; (B, C, H, W) to (B, D, H', W')."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_grad_enabled():
            return super().forward(x)
        x = _as_computed(x)
        if not has_winograd(x, self.weight, *_how(self)):
            return super().forward(x)
        # Weights may be replaced or changed in place, also by ``.data``, which no version counts.
        weight, kernel = self.transformed
        if weight is None or kernel.dtype != x.dtype or not torch.equal(weight, self.weight):
            kernel = transform_kernel(self.weight, x.dtype)
            self.transformed = self.weight.detach().clone(), kernel
        x = conv2d_by_winograd(x, kernel, self.bias)
        return x if self.activation is None else self.activation(x)


def wide_convolutions(model: nn.Module, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    """Find the convolutions without a norm that Winograd's method makes faster on large maps.

    There are none on CPUs where :func:`fpn_d2.utils.devices.gains_by_winograd` is False.

    Args:
        model: its weights are float32.
        dtype: in which the maps are computed.
    """
    return [
        module
        for module in model.modules()
        if type(module) in (nn.Conv2d, Conv2d, FastGradientConv2d)
        and is_wide(module.weight, *_how(module), dtype=dtype)
        and getattr(module, "norm", None) is None
        and module.padding_mode == "zeros"
    ]


def speed_up_wide_convolutions(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Turn a model's :func:`wide_convolutions` into :class:`WinogradConv2d`, in place.

    Weights and their names stay.
    """
    for layer in wide_convolutions(model, dtype):
        activation = getattr(layer, "activation", None)
        recast(layer, WinogradConv2d, transformed=(None, None), norm=None, activation=activation)


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


# --- linear layers


def _product_of_rows(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as :func:`product` does, in two steps if N is no multiple of 64.

    For each number of rows oneDNN makes a program and keeps it, with several MB.
    """
    rest = len(a) % _LEAST_ROWS
    if not rest:
        return product(a, b, bias)
    last = product(a[-_LEAST_ROWS:], b, bias)
    return torch.cat([product(a[:-rest], b, bias), last[-rest:]])


def _product_over_rows(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices (D, N) and (N, C), in two steps if N is no multiple of 64."""
    rest = len(b) % _LEAST_ROWS
    if not rest:
        return product(a, b)
    return product(a[:, :-rest], b[:-rest]).addmm_(a[:, -rest:], b[-rest:])


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
