"""What the device at hand can do."""

import torch

__all__ = ["has_bfloat16"]


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
