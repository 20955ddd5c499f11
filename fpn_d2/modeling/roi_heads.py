"""Fast R-CNN's heads on the pyramid (Sec. 4.2) and on the baseline's C4 (Sec. 5.2.1)."""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads import Res5ROIHeads

from .roi_pooler import LevelROIPooler


@ROI_HEADS_REGISTRY.register()
class LevelROIHeads(StandardROIHeads):
    """Detectron2's :class:`StandardROIHeads` with the constants of Eq. 1 from the config."""

    # Constants for TorchScript, which ignores the annotations of a parent class; Detectron2
    # declares them in StandardROIHeads.
    mask_on: torch.jit.Final[bool]
    keypoint_on: torch.jit.Final[bool]

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """See :meth:`StandardROIHeads._init_box_head`; the pooler is a :class:`LevelROIPooler`."""
        arguments = super()._init_box_head(cfg, input_shape)
        arguments["box_pooler"] = _build_pooler(cfg, input_shape)
        return arguments


@ROI_HEADS_REGISTRY.register()
class FPNROIHeads(LevelROIHeads):
    """The name of :class:`LevelROIHeads` in configs of version 0.1."""


@ROI_HEADS_REGISTRY.register()
class C4ROIHeads(Res5ROIHeads):
    """Detectron2's :class:`Res5ROIHeads` with RoI pooling that also works in bfloat16 training."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """See :meth:`Res5ROIHeads.from_config`; the pooler is a :class:`LevelROIPooler`.

        ``MODEL.ROI_BOX_HEAD.NORM``, if set, is the norm of conv5: initial weights that lack these
        layers leave a frozen norm nothing to normalize with.
        """
        if cfg.MODEL.ROI_BOX_HEAD.NORM:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.RESNETS.NORM = cfg.MODEL.ROI_BOX_HEAD.NORM
        arguments = super().from_config(cfg, input_shape)
        arguments["pooler"] = _build_pooler(cfg, input_shape)
        return arguments


def _build_pooler(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> LevelROIPooler:
    box = cfg.MODEL.ROI_BOX_HEAD
    return LevelROIPooler(
        output_size=box.POOLER_RESOLUTION,
        scales=[1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES],
        sampling_ratio=box.POOLER_SAMPLING_RATIO,
        pooler_type=box.POOLER_TYPE,
        canonical_box_size=box.POOLER_CANONICAL_SIZE,
        canonical_level=box.POOLER_CANONICAL_LEVEL,
        backend=box.POOLER_BACKEND,
    )
