"""torch.compile for a backbone, in testing and in training, with images of changing size."""

import logging
import shutil

from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def compile_backbone(model: nn.Module) -> bool:
    """Compile a model's backbone in place with :func:`torch.compile`, for any size of image.

    The first call compiles it, which takes up to a minute. So does the first image for which the
    side of some level is odd instead of even, or even instead of odd, up to 8 times (PyTorch's
    ``recompile_limit``); further such sizes run without compilation. The names of the weights stay.

    Args:
        model: a model with a ``backbone``.

    Returns:
        whether there is a compiler. Without one, a model on a CPU stays as it is, and the log says
        so.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        logger.warning(
            "compile: there is no C++ compiler (c++, g++ or clang++) for torch.compile; the model "
            "runs without it"
        )
        return False
    for module in model.backbone.modules():
        if isinstance(getattr(module, "top_block", None), LastLevelMaxPool):
            # The pooling would be compiled anew for odd and for even sides of the map.
            module.top_block = _Subsample()
    model.backbone.compile(dynamic=True)
    return True


class _Subsample(nn.Module):
    """Detectron2's :class:`LastLevelMaxPool`, which takes every second cell, written as a slice."""

    num_levels, in_feature = 1, "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x[:, :, ::2, ::2]]
