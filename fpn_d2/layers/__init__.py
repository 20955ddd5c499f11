"""Operators, in the room that Detectron2 calls layers."""

from .convolution_gradient import FastGradientConv2d, speed_up_gradients
from .convolved_linear import ConvolvedLinear, convolve_linears
from .pyramid_align import pyramid_roi_align

__all__ = [
    "ConvolvedLinear",
    "FastGradientConv2d",
    "convolve_linears",
    "pyramid_roi_align",
    "speed_up_gradients",
]
