"""bfloat16 training on CPUs, which Detectron2's :class:`AMPTrainer` leaves to CUDA."""

import logging
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

__all__ = ["CPUAutocastTrainer", "cpu_has_bfloat16"]


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; elsewhere it is slower than fp32."""
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not has:
        logging.getLogger(__name__).warning(
            "SOLVER.AMP.ENABLED: this processor has no bfloat16 instructions; training in fp32"
        )
    return has


class CPUAutocastTrainer(SimpleTrainer):
    """A :class:`SimpleTrainer` in bfloat16 autocast on a CPU, with channels-last weights.

    bfloat16 has float32's range, so no gradient scaler is needed; weights, gradients and the
    optimizer stay in float32.
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any):
        """See :class:`SimpleTrainer`; ``model`` is converted in place."""
        super().__init__(model.to(memory_format=torch.channels_last), *args, **kwargs)

    def run_step(self) -> None:
        """See :meth:`SimpleTrainer.run_step`."""
        # The backward pass is inside too; it runs in the types that the forward pass left.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()
