"""What models return that Detectron2 has no structure for."""

from .region_masks import RegionMasks

__all__ = ["RegionMasks"]
