"""Around the steps of a training: progress, CPU autocast, gradients, signals, non-finite losses.

A training ends between two steps, after the same step in all processes. For this, and to resume it
exactly, the processes tell each other in every step what each has met, in one collective call
(:class:`StepExchange`).
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, distributed, nn
from tqdm.contrib.logging import logging_redirect_tqdm

from ..checkpoint.resume_point import last_finite_checkpoint
from ..utils.devices import has_bfloat16
from ..utils.errors import UserError
from ..utils.progress import told
from .resume_state import ResumeState, averages_of

logger = logging.getLogger(__name__)


# --- progress


class ProgressTeller(HookBase):
    """In a terminal, a progress bar below the log; elsewhere, a log line whenever Detectron2, which
    writes one every 20 iterations, has been silent for 20 seconds."""

    def __init__(self):
        self._stack = contextlib.ExitStack()

    def before_train(self) -> None:
        """See :meth:`HookBase.before_train`."""
        trainer = self.trainer
        self._bar = told(
            "training", total=trainer.max_iter, unit="iteration", initial=trainer.start_iter
        )
        self._stack.enter_context(self._bar)
        if sys.stderr.isatty():
            loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "fpn_d2")]
            self._stack.enter_context(logging_redirect_tqdm(loggers))

    def after_step(self) -> None:
        """See :meth:`HookBase.after_step`."""
        if (self.trainer.iter + 1) % 20 == 0 and not sys.stderr.isatty():
            self._bar.last_print_t = time.time()
        self._bar.update()

    def after_train(self) -> None:
        """See :meth:`HookBase.after_train`."""
        self._stack.close()


# --- autocast


def cpu_has_bfloat16() -> bool:
    """Return whether bfloat16 is worthwhile on this processor; warn if it is not."""
    has = has_bfloat16("cpu")
    if not has:
        logger.warning(
            "SOLVER.AMP.ENABLED: this processor has no bfloat16 instructions; training in fp32"
        )
    return has


class CPUAutocastTrainer(SimpleTrainer):
    """A :class:`SimpleTrainer` in bfloat16 autocast on a CPU; Detectron2's AMPTrainer needs CUDA.

    bfloat16 has float32's range, so no gradient scaler is needed; weights, gradients and the
    optimizer stay in float32.
    """

    def run_step(self) -> None:
        """See :meth:`SimpleTrainer.run_step`."""
        # SimpleTrainer's step is one method, so the backward pass runs within autocast as well.
        # PyTorch advises against that: operations of the backward pass may be cast once more. The
        # trainings behind the tables ran like this, and moving the backward pass outside changes
        # the weights: measure the effect before the tables are made again, then move it.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()


# --- gradients


class GradientFiller(HookBase):
    """Gives a zero gradient to weights that a step did not use: torch's clipping by value, which
    Detectron2 calls for each weight, fails on a weight without a gradient.

    Register it on the object that runs a step, such as a :class:`SimpleTrainer`.
    """

    def after_backward(self) -> None:
        """See :meth:`HookBase.after_backward`."""
        for weight in self.trainer.model.parameters():
            if weight.requires_grad and weight.grad is None:
                weight.grad = torch.zeros_like(weight)


# --- signals


# The exit codes of a program that a signal has ended, as shells report them.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# Ctrl-C in a terminal reaches a process twice if its parent passes it on.
_ECHO_SECONDS = 1.0


@contextlib.contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM in this context, but none that the program was told to ignore."""
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    try:
        for number, old in before.items():
            if old is not signal.SIG_IGN:  # as after nohup, or in the background
                signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Stopper(HookBase):
    """On a signal, finishes the current step, saves a checkpoint and ends the program.

    Register it after the hooks that change or save the model, and before the one that evaluates it.
    A single process does not wait for an evaluation to end.

    Attributes:
        received: the number of the signal that this process has received; 0 if none.
        agreed: the number of the signal that all processes act on after this step; 0 if none.
        agreed_at: the latest iteration in which :class:`StepExchange` set ``agreed``.
    """

    def __init__(self):
        self.received = 0
        self.agreed = 0
        self.agreed_at = -1
        self._received_at = 0.0
        self._interruptible = False
        self._cut_evaluation = False

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Handle SIGINT and SIGTERM in this context."""
        # Python delivers signals to the main thread only; without a trainer nothing would stop.
        if threading.current_thread() is threading.main_thread() and self.trainer is not None:
            return handling_signals(self._receive)
        return contextlib.nullcontext()

    def before_step(self) -> None:
        """See :meth:`HookBase.before_step`."""
        self._interruptible = False

    def after_step(self) -> None:
        """Stop here if any process was told to, except after the last step (:meth:`after_train`).

        Only evaluation and logs are left in the iteration.
        """
        if comm.get_world_size() == 1:
            self.agreed = self.received
        elif self.agreed_at != self.trainer.iter:  # a run_step of one's own, without our hooks
            self.agreed = max(comm.all_gather(self.received))
        if self.agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            self._save()
            raise SystemExit(EXIT_CODES[self.agreed])
        self._interruptible = True

    def after_train(self) -> None:
        """See :meth:`HookBase.after_train`; only the last evaluation and logs are left."""
        self._interruptible = False
        trainer = self.trainer
        if self._cut_evaluation and trainer.iter + 1 < trainer.max_iter:
            self._save()
        elif trainer.iter == trainer.max_iter - 1:
            # The last step has failed, and Detectron2 would evaluate what it left.
            error = sys.exc_info()[1]
            if error is not None:
                raise error
        elif self.agreed and trainer.iter >= trainer.max_iter:
            logger.info("Stopped before the last evaluation; --resume makes it")
            raise SystemExit(EXIT_CODES[self.agreed])
        self._interruptible = True

    def _save(self) -> None:
        iteration, cfg = self.trainer.iter, self.trainer.cfg
        name = f"model_{iteration:07d}"
        is_due = (iteration + 1) % cfg.SOLVER.CHECKPOINT_PERIOD == 0
        # If a checkpoint was due, the hook before this one has written it.
        if not (is_due and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, f"{name}.pth"))):
            self.trainer.checkpointer.save(name, iteration=iteration)
        logger.info("Stopped after iteration %d; --resume goes on from there", iteration)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; Python calls this between two bytecode instructions."""
        now = time.monotonic()
        if not self.received:
            self.received, self._received_at = number, now
            if comm.is_main_process():
                # The logger may be in use right now, and must not be entered twice.
                os.write(2, b"stopping after this step; Ctrl-C again ends it at once\n")
        elif number == signal.SIGINT and now - self._received_at > _ECHO_SECONDS:
            raise KeyboardInterrupt
        if self._interruptible and comm.get_world_size() == 1:
            self._interruptible, self._cut_evaluation = False, True
            raise SystemExit(EXIT_CODES[self.received])


# --- what the processes exchange, and losses that are no numbers


class StepExchange(HookBase):
    """Tells all processes, before the optimizer changes a weight, what each has met in the step.

    They exchange, in one collective call with one small tensor, whether a loss is NaN or infinite,
    which ends the training, a signal, and the running averages. A single process makes no call; it
    leaves its losses to Detectron2, which refuses non-finite ones when it writes its metrics, also
    before the optimizer.

    Register it on the object that runs a step, which calls :meth:`after_backward`.
    """

    def __init__(self, model: nn.Module, folder: str, stopper: Stopper, resume_state: ResumeState):
        """
        Args:
            model: the module that the step calls.
            folder: the folder of the training's checkpoints.
            stopper, resume_state: receive the signals and the averages of all processes.
        """
        self._model, self._folder = model, folder
        self._stopper, self._resume_state = stopper, resume_state
        self._images: list[str] = []
        self._losses: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Remember the images and the losses of a step.

        Between steps the model has no hooks: it can be copied, pickled, and outlive its trainer.
        """
        with (
            self._model.register_forward_pre_hook(self._remember_images),
            self._model.register_forward_hook(self._remember_losses),
        ):
            yield

    def _remember_images(self, module: nn.Module, inputs: tuple) -> None:
        if not module.training:  # a step may look at its own detections
            return
        batch = inputs[0] if inputs and isinstance(inputs[0], Sequence) else ()
        self._images = [
            str(record.get("file_name", record.get("image_id", f"number {number}")))
            for number, record in enumerate(batch)
            if isinstance(record, Mapping)  # somebody's own loader and model may pass others
        ]
        self._losses = {}

    def _remember_losses(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        if module.training:
            losses = output if isinstance(output, dict) else {"total_loss": output}
            self._losses = {name: loss.detach() for name, loss in losses.items()}

    def after_backward(self) -> None:
        """See :meth:`HookBase.after_backward`.

        Raises:
            UserError: in every process, if any has a non-finite loss; one sentence names them all.
        """
        if comm.get_world_size() == 1:
            return
        averages = averages_of(self._model)
        numbers = [self._stopper.received, *averages.values()]
        device = next(self._model.parameters()).device
        rows = _gathered(self._losses.values(), numbers, device)
        self._stopper.agreed = next((int(row[1]) for row in rows if row[1]), 0)
        self._stopper.agreed_at = self.trainer.iter
        self._resume_state.averages = [dict(zip(averages, row[2:], strict=True)) for row in rows]
        if not all(row[0] for row in rows):
            bad = self._bad_losses()
            reports = comm.all_gather((bad, self._images if bad else []))
            # The checkpoints are on the first process's machine.
            path = last_finite_checkpoint(self._folder) if comm.is_main_process() else None
            path = comm.all_gather(path)[0]
            losses = sorted({loss for losses, _ in reports for loss in losses})
            raise self._error(losses, [image for _, images in reports for image in images], path)

    def error_of_this_process(self) -> UserError:
        """Return the error for Detectron2's FloatingPointError, which a process meets alone.

        Detectron2's RPN raises it for predicted boxes that are not finite, before there are losses.
        The other processes may be elsewhere in the step then: the launcher ends them.
        """
        path = last_finite_checkpoint(self._folder)
        return self._error(self._bad_losses() or ["the predicted boxes"], self._images, path)

    def _bad_losses(self) -> list[str]:
        return [name for name, loss in self._losses.items() if not loss.isfinite().all()]

    def _error(self, what: list[str], images: list[str], path: str | None) -> UserError:
        go_on = f"go on from the last good checkpoint, {path}, by --resume" if path else "restart"
        return UserError(
            f"{', '.join(what)} became NaN or infinite at iteration {self.trainer.iter} on "
            f"the images {', '.join(images)}; no weights were changed by it: correct these "
            f"images and their annotations, or lower SOLVER.BASE_LR, and {go_on}"
        )


def _gathered(
    losses: Iterable[Tensor], numbers: Iterable[float], device: torch.device
) -> list[list[float]]:
    """Gather a row from each rank: whether its losses are finite (1 or 0), then its numbers.

    A process without losses sends a row too (finite, on ``device``): the others wait for it.
    """
    checks = [loss.isfinite().all() for loss in losses] or [torch.tensor(True, device=device)]
    finite = torch.stack(checks).all().double()
    # Filling a tensor does not wait for a GPU, as copying one to it would. Reading it does wait,
    # but so does Detectron2: it reads the losses right after this, before its optimizer.
    own = torch.stack([finite, *(torch.full_like(finite, number) for number in numbers)])
    rows = [torch.empty_like(own) for _ in range(comm.get_world_size())]
    distributed.all_gather(rows, own)
    return torch.stack(rows).tolist()
