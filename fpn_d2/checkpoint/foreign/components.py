"""The components that only the models of torchvision and maskrcnn-benchmark need.

Importing this file registers them, as :func:`fpn_d2.load_config` does when a config names one.

The RPNs of both code bases have learned to correct their own anchors, so other anchors would give
other proposals. Both list the anchors of a cell ratio by ratio, Detectron2 size by size.

Shape shorthand: R RoIs, K classes.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.anchor_generator import BufferList, DefaultAnchorGenerator
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from ...modeling import LeanRetinaNet, LevelROIHeads


@ANCHOR_GENERATOR_REGISTRY.register()
class TorchvisionAnchorGenerator(DefaultAnchorGenerator):
    """Anchors with corners in whole pixels, on grids that are stretched over the image.

    As a level's stride, torchvision takes the network input's size divided by the level's, rounded
    down. That differs from the real stride beyond P5, whose sides may be odd: for 96 pixels P6 has
    2 cells, so its anchors are 48 pixels apart, not 64.
    """

    def generate_cell_anchors(
        self, sizes: tuple[float, ...] = (128, 256, 512), aspect_ratios: tuple = (0.5, 1, 2)
    ) -> Tensor:
        """See :meth:`DefaultAnchorGenerator.generate_cell_anchors`; ratio by ratio, rounded."""
        by_size = super().generate_cell_anchors(sizes, aspect_ratios)
        by_size = by_size.reshape(len(sizes), len(aspect_ratios), 4)
        return by_size.transpose(0, 1).reshape(-1, 4).round()

    def _grid_anchors(self, grid_sizes: list[tuple[int, int]]) -> list[Tensor]:
        """See :meth:`DefaultAnchorGenerator._grid_anchors`; the first level's stride is exact."""
        image = [side * self.strides[0] for side in grid_sizes[0]]
        anchors = []
        for grid, cells in zip(grid_sizes, self.cell_anchors, strict=True):
            y, x = (
                (torch.arange(count, device=cells.device) + self.offset) * (pixels // count)
                for pixels, count in zip(image, grid, strict=True)
            )
            y, x = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack((x, y, x, y), dim=2).reshape(-1, 1, 4)
            anchors.append((centres + cells).reshape(-1, 4))
        return anchors


@ANCHOR_GENERATOR_REGISTRY.register()
class MaskRCNNBenchmarkAnchorGenerator(DefaultAnchorGenerator):
    """Anchors whose sides are whole numbers of strides, as in Detectron and maskrcnn-benchmark.

    A square of one stride is brought to each aspect ratio, its sides are rounded, and the result
    is enlarged to each size: at stride 4 and ratio 1:2 a size of 32 is 48 x 24 pixels, where
    Detectron2 has 45.3 x 22.6. The anchors are centred on half a stride, as
    ``ANCHOR_GENERATOR.OFFSET`` 0.5 says.
    """

    def _calculate_anchors(
        self, sizes: list[list[float]], aspect_ratios: list[list[float]]
    ) -> BufferList:
        """See :meth:`DefaultAnchorGenerator._calculate_anchors`."""
        levels = []
        for stride, level_sizes, ratios in zip(self.strides, sizes, aspect_ratios, strict=True):
            boxes = []
            for ratio in ratios:
                width = round((stride**2 / ratio) ** 0.5)
                height = round(width * ratio)
                for size in level_sizes:
                    x, y = width * size / stride / 2, height * size / stride / 2
                    boxes.append([-x, -y, x, y])
            levels.append(torch.tensor(boxes))
        return BufferList(levels)


class UnusedClassesOutputLayers(FastRCNNOutputLayers):
    """:class:`FastRCNNOutputLayers` with a softmax over more columns than classes.

    torchvision's COCO models have a column for each number up to 90, and ten of these numbers are
    not categories. Without their columns the softmax would give other scores. Here they are part of
    the background, which leaves the score of every class as it was.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_unused: int, **kwargs: Any):
        """
        Args:
            input_shape, kwargs: see :class:`FastRCNNOutputLayers`.
            num_unused: the number of columns between the classes' and the background's.
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
        """See :meth:`FastRCNNOutputLayers.forward`; the scores are (R, K + 1)."""
        scores, deltas = super().forward(x)
        classes, others = scores[:, : self.num_classes], scores[:, self.num_classes :]
        background = others.logsumexp(dim=1, keepdim=True)
        return torch.cat([classes, background], dim=1), deltas


@ROI_HEADS_REGISTRY.register()
class TorchvisionROIHeads(LevelROIHeads):
    """:class:`LevelROIHeads` with ``MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES`` in its classifier."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """See :meth:`StandardROIHeads._init_box_head`."""
        arguments = super()._init_box_head(cfg, input_shape)
        if cfg.MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES > 0:
            shape = arguments["box_head"].output_shape
            arguments["box_predictor"] = UnusedClassesOutputLayers(cfg, shape)
        return arguments


@META_ARCH_REGISTRY.register()
class ClippingRetinaNet(LeanRetinaNet):
    """A :class:`LeanRetinaNet` with boxes clipped to the image before NMS, not after it.

    Boxes that reach beyond the image overlap more once they are clipped, so NMS removes other
    boxes.
    """

    def _decode_per_level_predictions(self, *args: Any) -> Instances:
        """See :meth:`DenseDetector._decode_per_level_predictions`."""
        predictions = super()._decode_per_level_predictions(*args)
        predictions.pred_boxes.clip(predictions.image_size)
        return predictions
