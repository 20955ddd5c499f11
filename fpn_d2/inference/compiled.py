"""torch.compile of a backbone, in testing and in training, for images of changing size."""

import logging
import shutil

from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

__all__ = ["compile_backbone"]

logger = logging.getLogger(__name__)


def compile_backbone(model: nn.Module) -> bool:
    """Compile a model's backbone in place by :func:`torch.compile`, with sizes as symbols.

    It is compiled when it is first called, which takes up to a minute, and again for the first
    image of another parity of a level's sides, up to 8 times (PyTorch's ``recompile_limit``);
    beyond that such sizes run without. The names of its weights stay.

    Args:
        model: with a ``backbone``.

    Returns:
        whether there is a compiler; without one a CPU's model stays as it is, and the log says so.
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
            # Its pooling would be compiled once for every parity of the map's sides.
            module.top_block = _Subsample()
    model.backbone.compile(dynamic=True)
    return True


class _Subsample(nn.Module):
    """Detectron2's :class:`LastLevelMaxPool`, which takes every second cell, as a slice."""

    num_levels, in_feature = 1, "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x[:, :, ::2, ::2]]
