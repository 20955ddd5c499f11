"""What the paper draws: the neck, the RPN head, Eq. 1 and the RoI heads, all registered."""

from .fpn import FeaturePyramid, build_fpn_backbone
from .regnet import build_regnet_backbone
from .roi_heads import FPNROIHeads
from .roi_pooler import FPNROIPooler, levels_of_boxes
from .rpn import FPNRPN, FPNRPNHead, PerLevelRPNHead

__all__ = [
    "FPNRPN",
    "FPNROIHeads",
    "FPNROIPooler",
    "FPNRPNHead",
    "FeaturePyramid",
    "PerLevelRPNHead",
    "build_fpn_backbone",
    "build_regnet_backbone",
    "levels_of_boxes",
]
