"""What the paper draws: the neck, the RPN head, Eq. 1 and the RoI heads, all registered."""

from .anchor_generator import MaskRCNNBenchmarkAnchorGenerator, TorchvisionAnchorGenerator
from .box_predictor import UnusedClassesOutputLayers
from .fpn import FeaturePyramid, build_fpn_backbone
from .mask_proposals import MaskProposalGenerator, MaskProposalHead, MaskProposalNetwork
from .registered import check_registered
from .regnet import build_regnet_backbone
from .retinanet import ClippingRetinaNet
from .roi_heads import C4ROIHeads, FPNROIHeads
from .roi_pooler import FPNROIPooler, levels_of_boxes
from .rpn import FPNRPN, FPNRPNHead, PerLevelRPNHead

__all__ = [
    "FPNRPN",
    "C4ROIHeads",
    "ClippingRetinaNet",
    "FPNROIHeads",
    "FPNROIPooler",
    "FPNRPNHead",
    "FeaturePyramid",
    "MaskProposalGenerator",
    "MaskProposalHead",
    "MaskProposalNetwork",
    "MaskRCNNBenchmarkAnchorGenerator",
    "PerLevelRPNHead",
    "TorchvisionAnchorGenerator",
    "UnusedClassesOutputLayers",
    "build_fpn_backbone",
    "build_regnet_backbone",
    "check_registered",
    "levels_of_boxes",
]
