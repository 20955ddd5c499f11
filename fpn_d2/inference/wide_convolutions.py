"""A prepared model's wide 3 x 3 convolutions, by Winograd's method; see ``layers/winograd.py``."""

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..layers import FastGradientConv2d, convolve, has_winograd, transform_kernel
from ..utils.devices import gains_by_winograd
from ..utils.modules import recast


class WinogradConv2d(FastGradientConv2d):
    """Detectron2's :class:`Conv2d` without a norm, for inference; equal up to rounding.

    It transforms its weights at the first map that is large enough, and keeps both.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Conv2d`; (B, C, H, W) to (B, D, H', W')."""
        how = self.stride, self.padding, self.dilation, self.groups
        if (
            torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or not has_winograd(x, self.weight, *how)
        ):
            return super().forward(x)
        if self.kernel is None:
            self.kernel = transform_kernel(self.weight)
        x = convolve(x, self.kernel, self.bias)
        return x if self.activation is None else self.activation(x)


def _forget_kernel(layer: WinogradConv2d, _: Any) -> None:
    layer.kernel = None


def convolve_by_winograd(model: nn.Module) -> int:
    """Turn a model's 3 x 3 convolutions without a norm into :class:`WinogradConv2d`, in place.

    That is done only on CPUs where :func:`fpn_d2.utils.devices.gains_by_winograd`. Weights and
    their names stay.

    Returns:
        the number of layers that were turned.
    """
    if not gains_by_winograd():
        return 0
    layers = [
        module
        for module in model.modules()
        if type(module) in (nn.Conv2d, Conv2d, FastGradientConv2d)
        and module.kernel_size == (3, 3)
        and getattr(module, "norm", None) is None
        and module.padding_mode == "zeros"
    ]
    for layer in layers:
        activation = getattr(layer, "activation", None)
        recast(layer, WinogradConv2d, kernel=None, norm=None, activation=activation)
        layer.register_load_state_dict_post_hook(_forget_kernel)
    return len(layers)
