"""Operators; the names are Detectron2's."""

from .pyramid_align import pyramid_roi_align

__all__ = ["pyramid_roi_align"]
