"""Structures for model outputs that Detectron2 has none for."""

from .region_masks import RegionMasks

__all__ = ["RegionMasks"]
