"""Operators, in the room that Detectron2 calls layers."""

from .convolved_linear import ConvolvedLinear, convolve_linears
from .pyramid_align import pyramid_roi_align

__all__ = ["ConvolvedLinear", "convolve_linears", "pyramid_roi_align"]
