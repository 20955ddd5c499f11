"""The precisions and engines of a device, and how fast it multiplies matrices in them."""

import importlib.util
from typing import Any

import torch
from torch.nn import functional as F

from fpn_d2.utils.devices import has_bfloat16
from fpn_d2.utils.timing import time_in_turn

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
_ENGINE = "by openvino"
DTYPES = {variant: getattr(torch, name) for variant, name in PRECISIONS.items()}


def variants_of(device: str) -> list[str]:
    """Name the precisions that a device has, fp32 first."""
    return ["fp32", *["bf16"] * has_bfloat16(device), *["fp16"] * (device == "cuda")]


def prepared_variants_of(device: str) -> list[str]:
    """Name the ways in which a model can be prepared there: each precision, by PyTorch and, on CPUs
    where openvino and nncf are installed, by OpenVINO (``"fp32 by openvino"``)."""
    variants = variants_of(device)
    if device == "cpu" and all(map(importlib.util.find_spec, ("openvino", "nncf"))):
        variants += [f"{variant} {_ENGINE}" for variant in (*variants, "int8")]
    return variants


def choices_of(variant: str) -> dict[str, Any]:
    """Return the precision and the engine of such a variant, as ``prepare_model`` takes them."""
    engine = "openvino" if variant.endswith(_ENGINE) else "torch"
    return {"precision": PRECISIONS[variant.split()[0]], "engine": engine}


def autocast_dtype(variant: str) -> torch.dtype | None:
    """Return the autocast dtype of a variant, whose name begins with a precision; None for fp32."""
    precision = variant.split()[0]
    return None if precision == "fp32" else DTYPES[precision]


def matmul_rates(device: str, size: int = 2048) -> dict[str, float]:
    """Measure how fast the machine multiplies ``size`` x ``size`` matrices in each precision.

    The unit is floating-point operations a second. On CPUs PyTorch has two libraries for it, one
    behind products and one behind 1 x 1 convolutions; the fastest round of the faster one counts.
    """
    rates = {}
    for variant in variants_of(device):
        a, b = (torch.randn(size, size, device=device).to(DTYPES[variant]) for _ in range(2))
        pixels = a[None, :, None].permute(0, 3, 1, 2)  # channels-last: a pixel is a row of a
        weight = b[..., None, None]
        calls = {"product": lambda a=a, b=b: a @ b}
        calls["convolution"] = lambda x=pixels, weight=weight: F.conv2d(x, weight)
        seconds = time_in_turn(calls, rounds=5)
        rates[variant] = 2 * size**3 / min(map(min, seconds.values()))
    return rates
