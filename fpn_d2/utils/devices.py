"""What the device at hand can do, and how a process's C library treats freed memory.

Nothing about a processor is found out by timing it, so that a run can be repeated.
"""

import contextlib
import ctypes
import functools
import gc
import os
import platform
import re

import torch

# mallopt(3) of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_ZEN_4 = 25  # AMD's family of Zen 4, and of Zen 3, which has no AVX-512


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 in hardware; without that it is slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@functools.cache
def has_slow_matmul() -> bool:
    """Whether oneDNN, which PyTorch has, multiplies float32 matrices much faster on this CPU.

    PyTorch multiplies them with MKL, which uses AVX-512 only on Intel's processors. oneDNN uses
    what the processor has. On AMD's Zen 4 both are equally fast.
    """
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.cpu._is_avx512_supported()
        and _amd_family() > _ZEN_4
    )


def has_slow_channels_last_gradient() -> bool:
    """Whether oneDNN is slow at the gradient of a channels-last convolution's weights on this CPU.

    Measured on an AMD Zen 3, which has AVX2; processors with AVX-512 have other kernels.
    """
    return torch.backends.mkldnn.is_available() and _has_avx2_alone()


def gains_by_winograd(dtype: torch.dtype = torch.float32) -> bool:
    """Whether Winograd's convolution is faster than oneDNN's on this CPU, in float32 or bfloat16.

    Float32 was measured on AMD's Zen 3, Zen 4 and, with products by oneDNN, Zen 5, and bfloat16 on
    Zen 5 alone. Nothing was measured on other processors with AVX-512.
    """
    if dtype == torch.bfloat16:
        return (
            torch.backends.mkldnn.is_available()
            and torch.cpu._is_avx512_bf16_supported()
            and _amd_family() > _ZEN_4
        )
    return has_slow_matmul() or (
        torch.backends.mkl.is_available() and (_has_avx2_alone() or _has_halved_avx512())
    )


def _has_avx2_alone() -> bool:
    return torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_supported()


def _has_halved_avx512() -> bool:
    """Whether units of 256 bits run AVX-512 in two halves, so AVX2 is as fast."""
    return torch.cpu._is_avx512_supported() and _amd_family() == _ZEN_4


@functools.cache
def _amd_family() -> int:
    """Return the family of an AMD processor, such as 26 for Zen 5; 0 for any other processor."""
    vendor = cpu_info("vendor_id")
    words = f"Family {cpu_info('cpu family')}, {vendor}" if vendor else platform.processor()
    found = re.search(r"Family (\d+).*AuthenticAMD", words)  # as Windows names it
    return int(found[1]) if found else 0


def cpu_info(field: str) -> str:
    """Return the first processor's value of a ``/proc/cpuinfo`` field; "" if there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if field in line)
    except (OSError, StopIteration):
        return ""


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones.

    glibc returns blocks of more than 32 MB to the kernel when they are freed. The next block gets
    fresh pages, which the kernel clears and maps when they are first written: for a feature map or
    pooled RoIs that takes as long as computing them. Up to 2 GB more stay with the process.

    Programs call it once, before their first model. It is for CPUs only, and leaves alone an
    allocator that the user has chosen or tuned by LD_PRELOAD, MALLOC_* or GLIBC_TUNABLES.

    Returns:
        whether the C library accepted the settings.
    """
    if torch.cuda.is_available() or any(
        name.startswith(("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES")) for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    # Before glibc 2.35 the threshold is at most 32 MB; then no block is mapped at all.
    is_set = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_MAX, 0)
    return bool(is_set and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))


def return_freed_memory() -> None:
    """Return the freed memory that the C library still holds to the system; only for glibc.

    The process then holds only what it uses, and the next call shows all the memory that it takes.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
