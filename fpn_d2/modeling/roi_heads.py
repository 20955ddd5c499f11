"""Fast R-CNN's heads on the pyramid (Sec. 4.2) and on the baseline's C4 (Sec. 5.2.1).

Their pooler takes the constants of Eq. 1 from the config. Shape shorthand: N images, R boxes of all
images together, C channels, S x S output bins.
"""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Boxes
from torch import Tensor

from ..layers import pyramid_roi_align
from ..utils.modules import renamed


def levels_of_boxes(
    boxes: Tensor,
    min_level: int = 2,
    max_level: int = 5,
    canonical_size: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Return each box's pyramid level by Eq. 1, ``k = floor(k0 + log2(sqrt(w h) / 224))``.

    The paper does not say what happens to boxes beyond the pyramid. Its authors' code clamps the
    level, as does Detectron2's :func:`assign_boxes_to_levels`, which this calls.

    Args:
        boxes: (R, 4) floating-point x0 y0 x1 y1, in pixels of the network input.
        min_level, max_level: the finest and the coarsest level to pool from.
        canonical_size: side of a box that belongs on ``canonical_level``, in pixels of the network
            input.
        canonical_level: k0.

    Returns:
        (R,) int64, the levels k. A box without area goes to ``min_level``.
    """
    return min_level + assign_boxes_to_levels(
        [Boxes(boxes)], min_level, max_level, canonical_size, canonical_level
    )


class LevelROIPooler(ROIPooler):
    """Detectron2's :class:`ROIPooler` with a faster RoIAlign on CPUs.

    It differs in three points: :meth:`levels` tells which level a box is pooled from; RoIAlign
    runs on CPUs as :func:`fpn_d2.layers.pyramid_roi_align`; and maps in half precision are pooled
    in float32, because torchvision's RoI *pooling* has no kernel for bfloat16. When scripted
    (:func:`torch.jit.script`) or exported, it always pools by torchvision's operators.
    """

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any):
        """
        Args:
            args, kwargs: see :class:`ROIPooler`.
            backend: the RoIAlign to use: "gather" (this package's), "torchvision", or "auto", which
                takes the first on CPUs and the second elsewhere.
        """
        super().__init__(*args, **kwargs)
        self.backend = backend

    def levels(self, boxes: Tensor) -> Tensor:
        """Return the level that each box is pooled from; see :func:`levels_of_boxes`."""
        return levels_of_boxes(
            boxes, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )

    # Detectron2's own method; TorchScript has no super().
    _pool = renamed(ROIPooler.forward, "_pool")

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """See :meth:`ROIPooler.forward`; (R, C, S, S) in the precision of ``x``."""
        if not torch.jit.is_scripting() and self._gathers(x, box_lists):
            return self._gather(x, box_lists)
        dtype = x[0].dtype
        if dtype == torch.bfloat16 or dtype == torch.float16:
            x = [feature.float() for feature in x]
        return self._pool(x, box_lists).to(dtype)

    @torch.jit.unused
    def _gathers(self, x: list[Tensor], box_lists: list[Boxes]) -> bool:
        if not box_lists or not isinstance(self.level_poolers[0], ROIAlign):
            return False
        # An exported model keeps torchvision's operator, which the runtimes know.
        exporting = (
            torch.jit.is_tracing()
            or torch.onnx.is_in_onnx_export()
            or torch.compiler.is_exporting()
        )
        on_cpu = x[0].device.type == "cpu"
        return (self.backend == "gather" or (self.backend == "auto" and on_cpu)) and not exporting

    def _gather(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        boxes = convert_boxes_to_pooler_format(box_lists)
        levels = self.levels(boxes[:, 1:]) - self.min_level
        if len(x) == 1:  # like ROIPooler, which pools boxes of any size from a single level
            levels = torch.zeros_like(levels)
        align = self.level_poolers[0]
        return pyramid_roi_align(
            x,
            boxes,
            levels,
            [pooler.spatial_scale for pooler in self.level_poolers],
            self.output_size,
            align.sampling_ratio,
            align.aligned,
        )


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
