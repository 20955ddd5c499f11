"""Operators, in a package named after Detectron2's ``layers``."""

from .cpu_kernels import (
    conv2d_by_winograd,
    gradients_at,
    has_winograd,
    sampled_cells,
    transform_kernel,
    weight_gradient_by_winograd,
)
from .cpu_layers import (
    FastGradientConv2d,
    FastLinear,
    SteadyGroupNorm,
    WinogradConv2d,
    speed_up_gradients,
    speed_up_linears,
    speed_up_wide_convolutions,
    steady_group_norms,
    wide_convolutions,
)
from .pyramid_align import pyramid_roi_align

__all__ = [
    "FastGradientConv2d",
    "FastLinear",
    "SteadyGroupNorm",
    "WinogradConv2d",
    "conv2d_by_winograd",
    "gradients_at",
    "has_winograd",
    "pyramid_roi_align",
    "sampled_cells",
    "speed_up_gradients",
    "speed_up_linears",
    "speed_up_wide_convolutions",
    "steady_group_norms",
    "transform_kernel",
    "weight_gradient_by_winograd",
    "wide_convolutions",
]
