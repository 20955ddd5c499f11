"""Fast R-CNN's heads on the pyramid (Sec. 4.2)."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads

from .roi_pooler import FPNROIPooler

__all__ = ["FPNROIHeads"]


@ROI_HEADS_REGISTRY.register()
class FPNROIHeads(StandardROIHeads):
    """Detectron2's :class:`StandardROIHeads` with Eq. 1's constants from the config."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """See :meth:`StandardROIHeads._init_box_head`; the pooler is a :class:`FPNROIPooler`."""
        arguments = super()._init_box_head(cfg, input_shape)
        box = cfg.MODEL.ROI_BOX_HEAD
        arguments["box_pooler"] = FPNROIPooler(
            output_size=box.POOLER_RESOLUTION,
            scales=[1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES],
            sampling_ratio=box.POOLER_SAMPLING_RATIO,
            pooler_type=box.POOLER_TYPE,
            canonical_box_size=box.POOLER_CANONICAL_SIZE,
            canonical_level=box.POOLER_CANONICAL_LEVEL,
        )
        return arguments
