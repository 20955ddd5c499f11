"""The anchors of torchvision and of maskrcnn-benchmark, for checkpoints that come from there.

Their RPNs have learned to correct these boxes, so that others give other proposals. Both list the
anchors of a place by aspect ratio first, where Detectron2 lists them by size.
"""

import torch
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    BufferList,
    DefaultAnchorGenerator,
)
from torch import Tensor

__all__ = ["MaskRCNNBenchmarkAnchorGenerator", "TorchvisionAnchorGenerator"]


@ANCHOR_GENERATOR_REGISTRY.register()
class TorchvisionAnchorGenerator(DefaultAnchorGenerator):
    """Anchors with corners in whole pixels, on grids that are stretched over the image.

    torchvision takes the network input's size, divided by a level's and rounded down, for the
    stride of that level. They differ beyond P5, whose sides may be odd: of 96 pixels P6 has 2, so
    that its anchors are 48 apart and not 64.
    """

    def generate_cell_anchors(
        self, sizes: tuple[float, ...] = (128, 256, 512), aspect_ratios: tuple = (0.5, 1, 2)
    ) -> Tensor:
        """See :meth:`DefaultAnchorGenerator.generate_cell_anchors`; ratio by ratio, rounded."""
        by_size = super().generate_cell_anchors(sizes, aspect_ratios)
        by_ratio = by_size.reshape(len(sizes), len(aspect_ratios), 4).transpose(0, 1)
        return by_ratio.reshape(-1, 4).round()

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
    Detectron2 has 45.3 x 22.6. They are centred on half a stride, which ``ANCHOR_GENERATOR.OFFSET``
    0.5 says.
    """

    def _calculate_anchors(
        self, sizes: list[list[float]], aspect_ratios: list[list[float]]
    ) -> BufferList:
        """See :meth:`DefaultAnchorGenerator._calculate_anchors`."""
        return BufferList(
            [
                _whole_strides(*level)
                for level in zip(self.strides, sizes, aspect_ratios, strict=True)
            ]
        )


def _whole_strides(stride: int, sizes: list[float], aspect_ratios: list[float]) -> Tensor:
    """(ratios x sizes, 4) boxes around the origin, ratio by ratio."""
    boxes = []
    for ratio in aspect_ratios:
        width = round((stride**2 / ratio) ** 0.5)
        height = round(width * ratio)
        for size in sizes:
            half_width, half_height = width * size / stride / 2, height * size / stride / 2
            boxes.append([-half_width, -half_height, half_width, half_height])
    return torch.tensor(boxes)
