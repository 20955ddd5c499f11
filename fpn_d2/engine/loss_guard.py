"""A loss that is NaN or infinite ends the training before it reaches the weights."""

import glob
import os
import weakref
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint.safe_load import read_torch
from ..utils.errors import UserError
from .stopping import Halt

__all__ = ["LossGuard", "last_finite_checkpoint"]


class LossGuard(HookBase):
    """Looks at every step's losses between its backward pass and the optimizer.

    It belongs among the hooks of the object that makes a step, which calls :meth:`after_backward`.
    """

    def __init__(self, model: nn.Module, folder: str):
        """
        Args:
            model: what the step calls.
            folder: of the training's checkpoints.
        """
        self._folder = folder
        self._names: list[str] = []
        self._losses: dict[str, Tensor] = {}
        # A function, since evaluation copies the model with its hooks, but a function as itself.
        guard = weakref.proxy(self)

        def remember_images(module: nn.Module, inputs: tuple) -> None:
            if module.training:
                guard._names = [_name(i, record) for i, record in enumerate(inputs[0])]

        def remember_losses(module: nn.Module, inputs: tuple, output: Any) -> None:
            if module.training:
                losses = output if isinstance(output, dict) else {"total_loss": output}
                guard._losses = {name: loss.detach() for name, loss in losses.items()}

        model.register_forward_pre_hook(remember_images)
        model.register_forward_hook(remember_losses)

    def after_backward(self) -> None:
        """See :meth:`HookBase.after_backward`.

        Raises:
            Halt: in every process, with one sentence about all of them.
        """
        bad = [name for name, loss in self._losses.items() if not torch.isfinite(loss).all()]
        reports = comm.all_gather((bad, self._names if bad else []))
        if not any(names for names, _ in reports):
            return
        # The checkpoints lie where the first process is.
        path = last_finite_checkpoint(self._folder) if comm.is_main_process() else None
        path = comm.all_gather(path)[0]
        losses = sorted({loss for losses, _ in reports for loss in losses})
        raise self._halt(losses, [image for _, names in reports for image in names], path)

    def halt_without_losses(self) -> Halt:
        """What is to be raised where the model has found NaN in its own predictions.

        It has no losses then, and the other processes may be at another place: they are ended by
        the launcher.
        """
        path = last_finite_checkpoint(self._folder)
        return self._halt(["the predicted boxes"], self._names, path)

    def _halt(self, what: list[str], images: list[str], path: str | None) -> Halt:
        go_on = f"go on from the last good checkpoint, {path}, with --resume" if path else "restart"
        return Halt(
            UserError(
                f"{', '.join(what)} became NaN or infinite at iteration {self.trainer.iter} on "
                f"the images {', '.join(images)}; no weights were changed by it: look at these "
                f"images and their annotations, or lower SOLVER.BASE_LR, and {go_on}"
            )
        )


def _name(number: int, record: dict[str, Any]) -> str:
    return str(record.get("file_name", record.get("image_id", f"number {number}")))


def last_finite_checkpoint(folder: str) -> str | None:
    """The newest checkpoint of a training whose weights are all finite numbers.

    Args:
        folder: the training's OUTPUT_DIR.

    Returns:
        its path; None where there is none.
    """
    paths = glob.glob(os.path.join(glob.escape(folder), "model_*.pth"))
    for path in sorted(paths, key=os.path.getmtime, reverse=True):
        try:
            weights = read_torch(path)["model"].values()
        except (UserError, KeyError, TypeError, AttributeError):
            continue  # damaged, or no checkpoint of a training
        if all(torch.isfinite(value).all() for value in weights):
            return path
    return None
