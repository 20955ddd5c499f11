"""Operators, in the room that Detectron2 calls layers."""

from .convolution_gradient import FastGradientConv2d, speed_up_gradients
from .convolved_linear import ConvolvedLinear, convolve_linears
from .pyramid_align import pyramid_roi_align
from .winograd import convolve, gradient_of_weight, has_winograd, transform_kernel

__all__ = [
    "ConvolvedLinear",
    "FastGradientConv2d",
    "convolve",
    "convolve_linears",
    "gradient_of_weight",
    "has_winograd",
    "pyramid_roi_align",
    "speed_up_gradients",
    "transform_kernel",
]
