"""bfloat16 training on CPUs, which Detectron2's :class:`AMPTrainer` leaves to CUDA."""

import logging

import torch
from detectron2.engine import SimpleTrainer

from ..utils.devices import has_bfloat16

__all__ = ["CPUAutocastTrainer", "cpu_has_bfloat16"]


def cpu_has_bfloat16() -> bool:
    """Whether bfloat16 pays on this processor; says so where it does not."""
    has = has_bfloat16("cpu")
    if not has:
        logging.getLogger(__name__).warning(
            "SOLVER.AMP.ENABLED: this processor has no bfloat16 instructions; training in fp32"
        )
    return has


class CPUAutocastTrainer(SimpleTrainer):
    """A :class:`SimpleTrainer` in bfloat16 autocast on a CPU.

    bfloat16 has float32's range, so no gradient scaler is needed; weights, gradients and the
    optimizer stay in float32.
    """

    def run_step(self) -> None:
        """See :meth:`SimpleTrainer.run_step`."""
        # The backward pass is inside too; it runs in the types that the forward pass left.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()
