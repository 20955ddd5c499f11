"""The names under which configs of version 0.1 know these components; Detectron2's registries go by
the name of the class or function."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from torch import nn

from .roi_heads import LevelROIHeads
from .rpn import LeanRPN, build_level_rpn_head


@PROPOSAL_GENERATOR_REGISTRY.register()
class FPNRPN(LeanRPN):
    """See :class:`LeanRPN`."""


@ROI_HEADS_REGISTRY.register()
class FPNROIHeads(LevelROIHeads):
    """See :class:`LevelROIHeads`."""


@RPN_HEAD_REGISTRY.register()
def FPNRPNHead(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """See :func:`build_level_rpn_head`."""
    return build_level_rpn_head(cfg, input_shape)
