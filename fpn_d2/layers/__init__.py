"""Operators, in a package named after Detectron2's ``layers``."""

from .avx2_convolutions import (
    FastGradientConv2d,
    WinogradConv2d,
    conv2d_by_winograd,
    has_winograd,
    speed_up_gradients,
    speed_up_wide_convolutions,
    transform_kernel,
    weight_gradient_by_winograd,
    wide_convolutions,
)
from .convolved_linear import ConvolvedLinear, convolve_linears
from .pyramid_align import pyramid_roi_align

__all__ = [
    "ConvolvedLinear",
    "FastGradientConv2d",
    "WinogradConv2d",
    "conv2d_by_winograd",
    "convolve_linears",
    "has_winograd",
    "pyramid_roi_align",
    "speed_up_gradients",
    "speed_up_wide_convolutions",
    "transform_kernel",
    "weight_gradient_by_winograd",
    "wide_convolutions",
]
