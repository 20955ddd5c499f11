"""What the device at hand can do, and what a process asks of it."""

import ctypes
import os

import torch

__all__ = ["has_bfloat16", "keep_freed_memory", "return_freed_memory"]

# mallopt(3) of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones.

    glibc hands blocks of more than 32 MB back to the kernel as they are freed, and the next one
    gets fresh pages, each cleared and mapped as it is first written: for a feature map or pooled
    RoIs that takes as long as computing them. Up to 2 GB more stay with the process.

    Programs call it once, before their first model. It is for CPUs, and leaves an allocator alone
    that the user has chosen or tuned: LD_PRELOAD, MALLOC_*, GLIBC_TUNABLES.

    Returns:
        whether the C library took it.
    """
    if torch.cuda.is_available() or any(
        name.startswith(("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES")) for name in os.environ
    ):
        return False
    # Before glibc 2.35 the threshold is at most 32 MB; without any mapping there is none.
    is_set = _mallopt(_MMAP_THRESHOLD, 1 << 30) or _mallopt(_MMAP_MAX, 0)
    return is_set and _mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Let this process hand back the memory of freed tensors, as glibc does by itself.

    Its thresholds grow up to these while a program runs.
    """
    _mallopt(_MMAP_MAX, 1 << 16)
    if _mallopt(_MMAP_THRESHOLD, 1 << 25) and _mallopt(_TRIM_THRESHOLD, 1 << 26):
        ctypes.CDLL(None).malloc_trim(0)


def _mallopt(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
