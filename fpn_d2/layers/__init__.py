"""Operators, in a package named after Detectron2's ``layers``."""

from .convolutions import (
    FastGradientConv2d,
    SteadyGroupNorm,
    WinogradConv2d,
    conv2d_by_winograd,
    has_winograd,
    speed_up_gradients,
    speed_up_wide_convolutions,
    steady_group_norms,
    transform_kernel,
    weight_gradient_by_winograd,
    wide_convolutions,
)
from .linear import FastLinear, speed_up_linears
from .pyramid_align import pyramid_roi_align

__all__ = [
    "FastGradientConv2d",
    "FastLinear",
    "SteadyGroupNorm",
    "WinogradConv2d",
    "conv2d_by_winograd",
    "has_winograd",
    "pyramid_roi_align",
    "speed_up_gradients",
    "speed_up_linears",
    "speed_up_wide_convolutions",
    "steady_group_norms",
    "transform_kernel",
    "weight_gradient_by_winograd",
    "wide_convolutions",
]
