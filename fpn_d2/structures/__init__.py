"""Structures for the outputs of models that Detectron2 has none for."""

from .region_masks import RegionMasks

__all__ = ["RegionMasks"]
