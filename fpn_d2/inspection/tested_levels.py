"""The pyramid level of a box by Eq. 1, at the scale at which a model is tested."""

import math

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from ..config_checks import features_read
from ..modeling import levels_of_boxes
from .anchor_reach import network_inputs


class PyramidLevels:
    """How boxes get their level: Eq. 1 at the scale at which a model is tested.

    Args:
        first, last: the finest and the coarsest level.
        canonical_size, canonical_level: see :func:`fpn_d2.modeling.levels_of_boxes`.
        min_size, max_size: ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, in pixels.
    """

    def __init__(
        self,
        first: int = 2,
        last: int = 5,
        canonical_size: float = 224,
        canonical_level: int = 4,
        min_size: int = 800,
        max_size: int = 1333,
    ):
        self.first, self.last = first, last
        self.canonical_size, self.canonical_level = canonical_size, canonical_level
        self.min_size, self.max_size = min_size, max_size

    @classmethod
    def of_config(cls, cfg: CfgNode) -> "PyramidLevels":
        """Take a config's levels and scale; P2 to P5, the paper's, for a model whose box head reads
        one level or none, so that it can be compared with a pyramid."""
        pooled = features_read(cfg).get("MODEL.ROI_HEADS.IN_FEATURES", [])
        first, last = 2, 5
        if len(pooled) > 1:
            with torch.device("meta"):
                shapes = build_backbone(cfg).output_shape()
            levels = [int(math.log2(shapes[name].stride)) for name in pooled]
            first, last = min(levels), max(levels)
        head = cfg.MODEL.ROI_BOX_HEAD
        return cls(
            first,
            last,
            head.POOLER_CANONICAL_SIZE,
            head.POOLER_CANONICAL_LEVEL,
            cfg.INPUT.MIN_SIZE_TEST,
            cfg.INPUT.MAX_SIZE_TEST,
        )

    def of(self, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the levels (R,) of boxes (R, 4), x y width height in pixels of their images.

        ``sizes`` is (R, 2), the height and the width of each box's image.
        """
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        scaled, _ = network_inputs(corners, sizes, self.min_size, self.max_size)
        return levels_of_boxes(
            torch.from_numpy(scaled),
            self.first,
            self.last,
            self.canonical_size,
            self.canonical_level,
        ).numpy()
