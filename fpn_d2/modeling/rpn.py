"""The RPN of Sec. 4.1: its head, one for all levels or, as the paper tried, one for each."""

import math
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.structures import Instances
from torch import Tensor, nn

__all__ = ["FPNRPN", "FPNRPNHead", "PerLevelRPNHead"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class FPNRPN(RPN):
    """Detectron2's :class:`RPN`, without proposals in training where nothing reads them.

    An RPN that is trained alone learns from its anchors. Detectron2 runs NMS over its best boxes
    all the same, 12,000 of them on a single level, at every step.
    """

    @configurable
    def __init__(self, *, proposals_in_training: bool = True, **kwargs: Any):
        """
        Args:
            proposals_in_training: whether RoI heads or pictures need the proposals in training.
            kwargs: see :class:`RPN`.
        """
        super().__init__(**kwargs)
        self.proposals_in_training = proposals_in_training

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """See :meth:`RPN.from_config`."""
        arguments = super().from_config(cfg, input_shape)
        alone = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork" and cfg.VIS_PERIOD <= 0
        return {**arguments, "proposals_in_training": not alone}

    def predict_proposals(self, *args: Any) -> list[Instances]:
        """See :meth:`RPN.predict_proposals`."""
        if self.training and not self.proposals_in_training:
            return []
        return super().predict_proposals(*args)


class PerLevelRPNHead(nn.Module):
    """An RPN head for each level, with weights of its own (``MODEL.RPN.SHARED_HEAD False``).

    The paper observed "similar accuracy" with it on the pyramid (Sec. 4.1), and no better results
    without the top-down path (Sec. 5.1.1).
    """

    def __init__(self, heads: dict[str, StandardRPNHead]):
        """
        Args:
            heads: level name ("p2", ...) to head, in the order of the features.
        """
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See :meth:`StandardRPNHead.forward`."""
        pred_objectness_logits, pred_anchor_deltas = [], []
        for head, feature in zip(self.heads.values(), features, strict=True):
            logits, deltas = head([feature])
            pred_objectness_logits += logits
            pred_anchor_deltas += deltas
        return pred_objectness_logits, pred_anchor_deltas


@RPN_HEAD_REGISTRY.register()
def FPNRPNHead(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build the head that ``MODEL.RPN.SHARED_HEAD`` asks for.

    The shared one is Detectron2's :class:`StandardRPNHead` itself, under its parameter names.
    """
    if cfg.MODEL.RPN.SHARED_HEAD:
        return StandardRPNHead(cfg, input_shape)
    # from_config sees all levels, because the anchor generator counts them
    arguments = StandardRPNHead.from_config(cfg, input_shape)
    levels = [f"p{int(math.log2(shape.stride))}" for shape in input_shape]
    return PerLevelRPNHead({level: StandardRPNHead(**arguments) for level in levels})
