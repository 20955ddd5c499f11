"""The paper's pyramid, RPN, Eq. 1, RoI heads and mask proposals; the import registers them."""

from .bottom_up_networks import build_basic_resnet_backbone, build_regnet_backbone
from .fpn import FeaturePyramid, build_fpn_backbone
from .mask_proposals import MaskProposalGenerator, MaskProposalHead, MaskProposalNetwork
from .roi_heads import C4ROIHeads, LevelROIHeads, LevelROIPooler, levels_of_boxes
from .rpn import (
    LeanRetinaNet,
    LeanRPN,
    PerLevelRPNHead,
    bound_matching,
    build_level_rpn_head,
    match_anchors,
)

__all__ = [
    "C4ROIHeads",
    "FeaturePyramid",
    "LeanRPN",
    "LeanRetinaNet",
    "LevelROIHeads",
    "LevelROIPooler",
    "MaskProposalGenerator",
    "MaskProposalHead",
    "MaskProposalNetwork",
    "PerLevelRPNHead",
    "bound_matching",
    "build_basic_resnet_backbone",
    "build_fpn_backbone",
    "build_level_rpn_head",
    "build_regnet_backbone",
    "levels_of_boxes",
    "match_anchors",
]
