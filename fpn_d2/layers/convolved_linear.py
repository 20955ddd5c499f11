"""Linear layers as 1 x 1 convolutions, where PyTorch multiplies matrices slowly.

On CPUs PyTorch hands float32 products to MKL and convolutions to oneDNN. MKL leaves AVX-512 alone
on AMD's processors, so that the same product takes twice as long as a matrix product as it does as
a convolution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.devices import has_slow_matmul

__all__ = ["ConvolvedLinear", "convolve_linears"]

# Below, a call costs more than the product.
_LEAST_WEIGHTS = 2**19
_LEAST_ROWS = 64


class ConvolvedLinear(nn.Linear):
    """An :class:`nn.Linear` of the same weights, equal to rounding, forward and backward."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`nn.Linear`; only many rows (N, C) in float32 on several threads convolve."""
        if (
            torch.jit.is_tracing()
            or torch.compiler.is_exporting()
            or x.device.type != "cpu"
            or x.ndim != 2
            or len(x) < _LEAST_ROWS
            or x.dtype != torch.float32
            or torch.get_num_threads() == 1  # PyTorch convolves 1 x 1 by MKL then
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        # Rows as the pixels of one image. It is copied channel by channel, with which forward and
        # backward together are faster than with channels-last and no copy.
        image = x.t()[None, :, :, None]
        found = F.conv2d(image, self.weight[..., None, None], self.bias)
        return found[0, :, :, 0].t().contiguous()


def convolve_linears(model: nn.Module) -> int:
    """Turn a model's large linear layers into :class:`ConvolvedLinear`, in place, where it is
    faster: on CPUs where :func:`fpn_d2.utils.devices.has_slow_matmul`.

    Args:
        model: whose weights, and their names, stay.

    Returns:
        the number of layers.
    """
    if not has_slow_matmul():
        return 0
    layers = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and module.weight.numel() >= _LEAST_WEIGHTS
    ]
    for layer in layers:
        layer.__class__ = ConvolvedLinear
    return len(layers)
