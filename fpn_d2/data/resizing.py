"""How test images are brought to the network input's size (``INPUT.RESIZE_TEST``)."""

import math

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

__all__ = ["TorchvisionResize", "build_test_mapper", "build_test_resize"]


class _FloatResize(T.ResizeTransform):
    """Bilinear interpolation of numbers that are not rounded, without smoothing what shrinks."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """See :meth:`ResizeTransform.apply_image`, which does this with images of floats."""
        return super().apply_image(np.ascontiguousarray(img, dtype=np.float32), interp)


class TorchvisionResize(T.Augmentation):
    """What torchvision's detectors do with an image: its shorter side becomes ``min_size``, or its
    longer one ``max_size`` where that is less; both sides are rounded down."""

    def __init__(self, min_size: int, max_size: int):
        """
        Args:
            min_size, max_size: in pixels.
        """
        super().__init__()
        self.min_size = min_size
        self.max_size = max_size

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """See :meth:`Augmentation.get_transform`; the image is (H, W, C)."""
        sides = image.shape[:2]
        # in this order of operations, which decides what is just below a whole number
        scale = min(self.min_size / min(sides), self.max_size / max(sides))
        return _FloatResize(*sides, *(max(1, math.floor(side * scale)) for side in sides))


def build_test_resize(cfg: CfgNode) -> T.Augmentation:
    """What a test image is resized by, as ``INPUT.RESIZE_TEST`` says; in a plain Detectron2 config
    Detectron2's.

    Args:
        cfg: the merged config.
    """
    sides = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if cfg.INPUT.get("RESIZE_TEST", "detectron2") == "torchvision":
        return TorchvisionResize(*sides)
    return T.ResizeShortestEdge([sides[0], sides[0]], sides[1])


def build_test_mapper(cfg: CfgNode) -> DatasetMapper:
    """Detectron2's test mapper, with the resize of ``INPUT.RESIZE_TEST``.

    Args:
        cfg: the merged config; a plain Detectron2 one has Detectron2's resize.
    """
    if cfg.INPUT.get("RESIZE_TEST", "detectron2") == "detectron2":
        return DatasetMapper(cfg, False)
    return DatasetMapper(cfg, False, augmentations=[build_test_resize(cfg)])
