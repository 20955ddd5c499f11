"""Fast R-CNN's last layers, with columns of the classifier that belong to no class.

Shape shorthand: R RoIs, K classes, U unused columns.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import Tensor, nn

__all__ = ["UnusedClassesOutputLayers"]


class UnusedClassesOutputLayers(FastRCNNOutputLayers):
    """Detectron2's :class:`FastRCNNOutputLayers`, whose softmax is over more columns than classes.

    torchvision's COCO models have a column for each number up to 90, ten of which are no category.
    Without them the softmax would give other scores. Here they are part of the background, which
    leaves the score of every class as it was.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_unused: int, **kwargs: Any):
        """
        Args:
            input_shape, kwargs: see :class:`FastRCNNOutputLayers`.
            num_unused: U; their columns are between the classes' and the background's.
        """
        super().__init__(input_shape, **kwargs)
        classifier = nn.Linear(self.cls_score.in_features, self.num_classes + num_unused + 1)
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
        self.cls_score = classifier

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """See :meth:`FastRCNNOutputLayers.from_config`."""
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "num_unused": cfg.MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`FastRCNNOutputLayers.forward`; scores are (R, K + 1)."""
        scores, deltas = super().forward(x)
        classes, others = scores[:, : self.num_classes], scores[:, self.num_classes :]
        background = others.logsumexp(dim=1, keepdim=True)
        return torch.cat([classes, background], dim=1), deltas
