"""The pyramid level of a box by Eq. 1, at the scale at which a model is tested."""

import dataclasses
import math

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from ..modeling import levels_of_boxes
from ..modeling.fpn import check_features_exist, features_read
from ..utils.modules import without_memory
from .anchor_reach import network_inputs


@dataclasses.dataclass(frozen=True)
class PyramidLevels:
    """How boxes get their level: Eq. 1 at the scale at which a model is tested.

    Args:
        first, last: the finest and the coarsest level.
        canonical_size, canonical_level: see :func:`fpn_d2.modeling.levels_of_boxes`.
        min_size, max_size: ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, in pixels.
    """

    first: int
    last: int
    canonical_size: float
    canonical_level: int
    min_size: int
    max_size: int

    @classmethod
    def of_config(cls, cfg: CfgNode, fewest: int = 1) -> "PyramidLevels":
        """Take a config's scale and the levels that its box head reads.

        Args:
            cfg: the config.
            fewest: a model whose box head reads fewer levels, or that has no box head, gets the
                paper's P2 to P5; with 2, a model of one level can be compared with a pyramid.
        """
        pooled, levels = features_read(cfg).get("MODEL.ROI_HEADS.IN_FEATURES", []), [2, 5]
        if len(pooled) >= fewest:
            shapes = without_memory(lambda: build_backbone(cfg)).output_shape()
            # The checks of the config skip this if somebody else wrote the RoI heads.
            check_features_exist(
                "MODEL.ROI_HEADS.IN_FEATURES", pooled, list(shapes), "the backbone"
            )
            levels = [int(math.log2(shapes[name].stride)) for name in pooled]
        head, sizes = cfg.MODEL.ROI_BOX_HEAD, cfg.INPUT
        eq1 = head.POOLER_CANONICAL_SIZE, head.POOLER_CANONICAL_LEVEL
        return cls(min(levels), max(levels), *eq1, sizes.MIN_SIZE_TEST, sizes.MAX_SIZE_TEST)

    @property
    def numbers(self) -> range:
        """The levels, fine to coarse."""
        return range(self.first, self.last + 1)

    @property
    def scale(self) -> str:
        """The scale in words, to be put after "the image"."""
        if not self.min_size:
            return "as it is"
        return f"resized to {self.min_size} px (at most {self.max_size} px)"

    def of_inputs(self, boxes: np.ndarray) -> np.ndarray:
        """Return the levels (R,) of boxes (R, 4), x0 y0 x1 y1 in pixels of the network input."""
        eq1 = self.first, self.last, self.canonical_size, self.canonical_level
        return levels_of_boxes(torch.from_numpy(boxes), *eq1).numpy()

    def of(self, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the levels (R,) of boxes (R, 4), x y width height in pixels of their images.

        ``sizes`` is (R, 2), the height and the width of each box's image.
        """
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        return self.of_inputs(network_inputs(corners, sizes, self.min_size, self.max_size)[0])
