"""Operators, in a package named after Detectron2's ``layers``."""

from .cpu_layers import (
    ConvolvedLinear,
    FastGradientConv2d,
    SteadyGroupNorm,
    WinogradConv2d,
    conv2d_by_winograd,
    convolve_linears,
    has_winograd,
    speed_up_gradients,
    speed_up_wide_convolutions,
    steady_group_norms,
    transform_kernel,
    weight_gradient_by_winograd,
    wide_convolutions,
)
from .pyramid_align import pyramid_roi_align

__all__ = [
    "ConvolvedLinear",
    "FastGradientConv2d",
    "SteadyGroupNorm",
    "WinogradConv2d",
    "conv2d_by_winograd",
    "convolve_linears",
    "has_winograd",
    "pyramid_roi_align",
    "speed_up_gradients",
    "speed_up_wide_convolutions",
    "steady_group_norms",
    "transform_kernel",
    "weight_gradient_by_winograd",
    "wide_convolutions",
]
