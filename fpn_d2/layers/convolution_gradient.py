"""Convolutions whose gradient of the weights is computed channels-first, for CPUs with AVX2 alone.

There oneDNN has fast kernels for channels-last maps, but not for this gradient: on large maps that
of a 3 x 3 convolution takes two to four times as long as channels-first, copies included. Where it
is wide, the convolution and both of its gradients are computed by Winograd's method instead.

Shape shorthand: B images, C channels in and D out, H x W cells.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..utils.devices import has_slow_channels_last_gradient
from ..utils.modules import recast
from .winograd import convolve, gradient_of_weight, has_winograd, transform_kernel

# Fewer channels or cells gain no more than the copies cost.
_LEAST_CHANNELS = 64
_LEAST_CELLS = 1500


class _Convolution(torch.autograd.Function):
    """A convolution of channels-last maps: x (B, C, H, W), weight (D, C, k, k), bias (D,)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any):
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else bias.shape
        ctx.how = how
        ctx.by_winograd = has_winograd(x, weight, *how)
        if ctx.by_winograd:
            return convolve(x, transform_kernel(weight), bias)
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        if ctx.by_winograd and not torch.is_grad_enabled():  # whose own gradient is not written
            turned = weight.flip(2, 3).transpose(0, 1)
            return (
                convolve(gradient, transform_kernel(turned)) if for_x else None,
                gradient_of_weight(x, gradient) if for_weight else None,
                gradient.sum((0, 2, 3)) if for_bias else None,
                *(None, None, None, None),
            )

        def gradients(of: Sequence[Tensor], wanted: list[bool]) -> tuple[Tensor | None, ...]:
            how = (ctx.bias_sizes, stride, padding, dilation, False, (0, 0), groups, wanted)
            return torch.ops.aten.convolution_backward(*of, *how)

        found = gradients((gradient, x, weight), [for_x, False, False])[0] if for_x else None
        if not (for_weight or for_bias):
            return found, None, None, None, None, None, None
        first = [t.contiguous() for t in (gradient, x, weight)]
        return found, *gradients(first, [False, for_weight, for_bias])[1:], None, None, None, None


class _Convolving(TorchFunctionMode):
    """Within one module's forward its own :func:`F.conv2d` goes to :class:`_Convolution`."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(
        self, function: Callable, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if function is F.conv2d and args[1:2] and args[1] is self.weight:
            return _Convolution.apply(*args)  # Detectron2 gives all seven by their place
        return function(*args, **(kwargs or {}))


class FastGradientConv2d(Conv2d):
    """Detectron2's :class:`Conv2d`, equal up to the rounding of its weights' gradient.

    TorchScript does not compile it: it is meant for training.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Conv2d`; (B, C, H, W) to (B, D, H', W')."""
        if (
            not torch.jit.is_tracing()
            and not torch.compiler.is_compiling()
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.shape[-2] * x.shape[-1] >= _LEAST_CELLS
            and x.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
        ):
            with _Convolving(self.weight):
                return super().forward(x)
        return super().forward(x)


def speed_up_gradients(model: nn.Module) -> int:
    """Turn a channels-last model's larger convolutions into :class:`FastGradientConv2d`, in place.

    That is done only where :func:`fpn_d2.utils.devices.has_slow_channels_last_gradient`. Weights
    and their names stay.

    Returns:
        the number of layers that were turned.
    """
    if not has_slow_channels_last_gradient():
        return 0
    layers = [
        module
        for module in model.modules()
        if type(module) is Conv2d
        and min(module.kernel_size) > 1
        and module.groups == 1
        and isinstance(module.padding, tuple)  # no word, such as "same"
        and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
        and module.weight.dtype == torch.float32
    ]
    for layer in layers:
        recast(layer, FastGradientConv2d)
    return len(layers)
