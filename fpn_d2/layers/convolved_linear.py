"""Linear layers as 1 x 1 convolutions, for CPUs where PyTorch multiplies matrices slowly.

On CPUs PyTorch multiplies float32 matrices by MKL and convolves by oneDNN. MKL does not use AVX-512
on AMD's processors, so where units are 512 bits wide (Zen 5) a product takes nearly twice as long.

Shape shorthand: N rows, C features in and D out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.devices import has_slow_matmul
from ..utils.modules import recast

# For smaller layers or fewer rows, a call costs more than the product.
_LEAST_WEIGHTS = 2**19
_LEAST_ROWS = 64


class ConvolvedLinear(nn.Linear):
    """An :class:`nn.Linear` that convolves; it equals the plain layer up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`nn.Linear`; (N, C) to (N, D).

        It convolves only many rows in float32 on several threads, and never in an exported model.
        """
        if (
            torch.jit.is_tracing()
            or torch.compiler.is_exporting()
            or x.device.type != "cpu"
            or x.ndim != 2
            or len(x) < _LEAST_ROWS
            or x.dtype != torch.float32
            or torch.get_num_threads() == 1  # where PyTorch convolves 1 x 1 by MKL, too
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        # The rows are the pixels of one image. Copying it to channels-first makes forward and
        # backward together faster than channels-last without a copy.
        image = x.t()[None, :, :, None]
        found = F.conv2d(image, self.weight[..., None, None], self.bias)
        return found[0, :, :, 0].t().contiguous()


def convolve_linears(model: nn.Module) -> None:
    """Turn a model's large linear layers into :class:`ConvolvedLinear`, in place.

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
            recast(layer, ConvolvedLinear)
