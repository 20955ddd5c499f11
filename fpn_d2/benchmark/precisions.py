"""The precisions of a device, and its rate of matrix products in them."""

import torch
from torch.nn import functional as F

from ..utils.devices import has_bfloat16
from .measure import compare

__all__ = [
    "DTYPES",
    "PRECISIONS",
    "autocast_dtype",
    "matmul_rate",
    "matmul_rates",
    "variants_of",
]

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def variants_of(device: str) -> list[str]:
    """The precisions that a device has, fp32 first."""
    return [
        "fp32",
        *(["bf16"] if has_bfloat16(device) else []),
        *(["fp16"] if device == "cuda" else []),
    ]


def autocast_dtype(name: str) -> torch.dtype | None:
    """The dtype of autocast of a variant, None for float32.

    Args:
        name: the variant's, which begins with its precision.
    """
    variant = name.split()[0]
    return None if variant == "fp32" else DTYPES[variant]


def matmul_rates(device: str) -> dict[str, float]:
    """The machine's own rate of matrix products in each precision, by its name.

    Args:
        device: "cpu" or "cuda".
    """
    return {variant: matmul_rate(DTYPES[variant], device) for variant in variants_of(device)}


def matmul_rate(dtype: torch.dtype, device: str, size: int = 2048) -> float:
    """The machine's own rate of matrix products, in floating-point operations a second.

    PyTorch has two libraries for it on CPUs, behind products and behind 1 x 1 convolutions; the
    fastest round of the faster one counts.

    Args:
        dtype: of the matrices.
        device: where.
        size: of the square matrices.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    pixels = a[None, :, None].permute(0, 3, 1, 2)  # channels-last, a row of the matrix each
    calls = {"product": lambda: a @ b, "convolution": lambda: F.conv2d(pixels, b[..., None, None])}
    timings = compare(calls, rounds=5, device=device, memory_kept=calls, peaks=False)
    return 2 * size**3 / min(timing.fastest for timing in timings.values())
