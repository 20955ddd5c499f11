"""The precisions of a device, and how fast it multiplies matrices in them."""

import torch
from torch.nn import functional as F

from fpn_d2.utils.devices import has_bfloat16
from fpn_d2.utils.timing import time_in_turn

__all__ = ["DTYPES", "PRECISIONS", "autocast_dtype", "matmul_rate", "matmul_rates", "variants_of"]

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # INFERENCE.PRECISION
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def variants_of(device: str) -> list[str]:
    """Name the precisions that a device has, fp32 first."""
    return [
        "fp32",
        *(["bf16"] if has_bfloat16(device) else []),
        *(["fp16"] if device == "cuda" else []),
    ]


def autocast_dtype(variant: str) -> torch.dtype | None:
    """The dtype of a variant's autocast, None for float32.

    Args:
        variant: its name, which begins with the precision.
    """
    precision = variant.split()[0]
    return None if precision == "fp32" else DTYPES[precision]


def matmul_rates(device: str) -> dict[str, float]:
    """Measure :func:`matmul_rate` in each precision of a device.

    Args:
        device: "cpu" or "cuda".
    """
    return {variant: matmul_rate(DTYPES[variant], device) for variant in variants_of(device)}


def matmul_rate(dtype: torch.dtype, device: str, size: int = 2048) -> float:
    """Measure how fast the machine multiplies matrices, in floating-point operations a second.

    On CPUs PyTorch has two libraries for it, one behind products and one behind 1 x 1 convolutions;
    the fastest round of the faster one counts.

    Args:
        dtype: of the matrices.
        device: "cpu" or "cuda".
        size: the side of the square matrices.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    pixels = a[None, :, None].permute(0, 3, 1, 2)  # channels-last: a pixel is a row of the matrix
    calls = {"product": lambda: a @ b, "convolution": lambda: F.conv2d(pixels, b[..., None, None])}
    seconds = time_in_turn(calls, rounds=5)
    return 2 * size**3 / min(min(rounds) for rounds in seconds.values())
