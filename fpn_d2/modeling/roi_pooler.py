"""Eq. 1, and the RoI pooler that takes its constants from the config (Sec. 4.2).

Shape shorthand: N images, R boxes of all images together, C channels, S x S output bins.
"""

from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor

from ..layers import pyramid_roi_align

__all__ = ["LevelROIPooler", "levels_of_boxes"]


def levels_of_boxes(
    boxes: Tensor,
    min_level: int = 2,
    max_level: int = 5,
    canonical_size: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """The pyramid level of each box by Eq. 1, ``k = floor(k0 + log2(sqrt(w h) / 224))``.

    The paper does not say what happens beyond the pyramid; its authors' code clamps, and so does
    this.

    Args:
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the network input.
        min_level, max_level: the finest and the coarsest level that can be pooled from.
        canonical_size: the side, in pixels, of a box that belongs on ``canonical_level``.
        canonical_level: k0.

    Returns:
        (R,) int64, the levels k; a box without area goes to ``min_level``.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    scale = torch.sqrt(width * height) / canonical_size
    # 1e-8 keeps the logarithm finite, and is lost beside any box of a thousandth of a pixel
    k = torch.floor(canonical_level + torch.log2(scale + 1e-8))
    return k.clamp(min_level, max_level).to(torch.int64)


class LevelROIPooler(ROIPooler):
    """Detectron2's :class:`ROIPooler`, which also says where a box goes, pools RoIAlign on CPUs by
    :func:`fpn_d2.layers.pyramid_roi_align`, and RoI *pooling* in full precision (torchvision's
    kernel knows no bfloat16)."""

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any):
        """
        Args:
            args, kwargs: see :class:`ROIPooler`.
            backend: of RoIAlign: "gather", "torchvision", or "auto" for the first on CPUs and the
                second elsewhere.
        """
        super().__init__(*args, **kwargs)
        self.backend = backend

    def levels(self, boxes: Tensor) -> Tensor:
        """The level that each of (R, 4) boxes is pooled from; see :func:`levels_of_boxes`."""
        return levels_of_boxes(
            boxes, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """See :meth:`ROIPooler.forward`; (R, C, S, S) in the precision of ``x``."""
        if box_lists and self._gathers(x[0]):
            return self._gather(x, box_lists)
        dtype = x[0].dtype
        if dtype in (torch.bfloat16, torch.float16):
            x = [feature.float() for feature in x]
        return super().forward(x, box_lists).to(dtype)

    def _gathers(self, feature: Tensor) -> bool:
        if not isinstance(self.level_poolers[0], ROIAlign):
            return False
        # An exported model has torchvision's operator, which its runtimes know.
        exporting = (
            torch.jit.is_tracing()
            or torch.onnx.is_in_onnx_export()
            or torch.compiler.is_exporting()
        )
        on_cpu = feature.device.type == "cpu"
        return (self.backend == "gather" or (self.backend == "auto" and on_cpu)) and not exporting

    def _gather(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        boxes = convert_boxes_to_pooler_format(box_lists)
        levels = self.levels(boxes[:, 1:]) - self.min_level
        if len(x) == 1:  # as ROIPooler: whatever their size
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
