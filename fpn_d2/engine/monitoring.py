"""Options of a training: keep the best weights, stop early, measure losses on test sets, average
the weights, and step once for several batches.

Everything here is off by default and resumes with the training: a hook or the optimizer keeps what
it must remember in its ``state_dict``, which Detectron2's trainer saves.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer, EvalHook
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data.stream import seed_everything, seeded
from ..utils.errors import UserError
from ..utils.modules import overridden
from ..utils.progress import told
from .resume_state import averages_kept, unwrapped

logger = logging.getLogger(__name__)

BEST = "model_best"
VALIDATION_LOSS = "validation_loss"


# --- evaluation, the best checkpoint and early stopping


class EarlyStop(Exception):
    """Ends a training whose metric has not improved for long enough; not an error."""


class Evaluation:
    """Has its :class:`EvalHook` evaluate the same weights only once: after an early stop Detectron2
    would evaluate them again.

    Attributes:
        hook: the :class:`EvalHook`.
        measured: the number of steps before the last evaluation, and its results; None at first.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any]]):
        """Take the number of iterations between evaluations, and the function that evaluates."""
        self.period = period
        self.measured: tuple[int, dict[str, Any]] | None = None
        self.hook = EvalHook(period, lambda: self._once(evaluate))

    def _once(self, evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        done = _steps_done(self.hook.trainer)
        if self.measured is None or self.measured[0] != done:
            self.measured = done, evaluate()
        return self.measured[1]

    def is_due(self, done: int) -> bool:
        """Return whether to evaluate after ``done`` steps, the end of the training aside."""
        return self.period > 0 and done % self.period == 0


class BestKeeper(BestCheckpointer):
    """Detectron2's :class:`BestCheckpointer`, with early stopping and a state that resumes.

    A checkpoint is written before its iteration is evaluated. A training resumed from it repeats
    this evaluation, and so stands where an uninterrupted one does. Register it right after the hook
    of the :class:`Evaluation`, in every process.

    Attributes:
        waited: the number of evaluations since the best one.
    """

    def __init__(
        self, evaluation: Evaluation, metric: str, patience: int, checkpointer: Any, checked: bool
    ):
        """
        Args:
            evaluation: the :class:`Evaluation` whose hook comes before this one.
            metric: its name, such as ``bbox/AP``; of a loss the lowest value is the best.
            patience: how many evaluations without improvement end the training; 0 never does.
            checkpointer: writes ``model_best.pth``.
            checked: whether the metric is known to be measured if there is anything to measure.
        """
        # Before the name there may be a data set called blossoms, behind it a class, leaf/blossom.
        name = metric.partition("/AP-")[0].rpartition("/")[2]
        mode = "min" if "loss" in name else "max"
        super().__init__(evaluation.period, self, metric, mode, BEST)
        self.waited = 0
        self._evaluation, self._checked = evaluation, checked
        self._metric, self._patience = metric, patience
        self._writer, self._best_state = checkpointer, None
        self._judged = 0  # the number of steps before the last evaluation that was judged

    @property
    def is_exhausted(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self._patience <= self.waited

    def save(self, name: str, **state: Any) -> None:
        """Postpone a save that :class:`BestCheckpointer` orders before it records the best."""
        self._best_state = {"iteration": min(state["iteration"], self.trainer.max_iter - 1)}

    def before_train(self) -> None:
        """See :meth:`HookBase.before_train`; makes the evaluation that a resumed training lacks."""
        trainer, start = self.trainer, self.trainer.start_iter
        is_resumed = 0 < start < trainer.max_iter
        if is_resumed and self._evaluation.is_due(start) and self._judged != start:
            trainer.iter = trainer.storage.iter = start - 1
            trainer.stopper.after_step()  # a signal cuts this evaluation short, too
            self._evaluation.hook.after_step()
            self.after_step()

    def after_step(self) -> None:
        """See :meth:`BestCheckpointer.after_step`.

        Raises:
            UserError: if no evaluator has measured the metric.
            EarlyStop: if the patience is used up.
        """
        trainer = self.trainer
        done = trainer.iter + 1
        if not self._evaluation.is_due(done) or done == trainer.max_iter:
            return
        self._judge(super().after_step)
        if self._patience and comm.all_gather(self.is_exhausted)[0]:
            self._writer.save("model_final", iteration=trainer.iter)
            logger.info(
                "Stopped early after iteration %d: %s has not become better in %d evaluations "
                "(TEST.PATIENCE); the best is %s.pth",
                *(trainer.iter, self._metric, self._patience, BEST),
            )
            # As Detectron2's loop leaves them after its last step.
            trainer.max_iter = trainer.iter = done
            raise EarlyStop

    def after_train(self) -> None:
        """See :meth:`BestCheckpointer.after_train`."""
        if self.trainer.iter >= self.trainer.max_iter and self._judged != self.trainer.max_iter:
            self._judge(super().after_train)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`HookBase.state_dict`."""
        names = ("best_metric", "best_iter", "waited", "_judged")
        measured = {"metric": self._metric, "tests": list(self.trainer.cfg.DATASETS.TEST)}
        return measured | {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`HookBase.load_state_dict`; ignores that of another metric or test set."""
        own = self.state_dict()
        if all(state.pop(key, own[key]) == own[key] for key in ("metric", "tests")):
            vars(self).update(state)

    def _judge(self, judge: Callable[[], None]) -> None:
        if comm.is_main_process():  # the others have no results
            if not self._checked:
                check_metric(self._metric, flatten_results_dict(self._evaluation.measured[1]))
            before = self.best_metric
            judge()
            # Until an evaluation is the best one (none is while the metric is NaN), none is worse.
            is_worse = before is not None and self.best_metric == before
            self.waited = self.waited + 1 if is_worse else 0
        self._judged = _steps_done(self.trainer)
        if self._best_state is not None:
            self._writer.save(BEST, **self._best_state)
            self._best_state = None


def check_metric(metric: str, reported: Iterable[str]) -> None:
    """Refuse a ``TEST.BEST_METRIC`` that is not among the reported metrics."""
    names = list(reported)
    if metric not in names:
        known = f"reports {', '.join(names)}" if names else "reports no metric"
        raise UserError(
            f"TEST.BEST_METRIC is {metric!r}, which no evaluation of DATASETS.TEST measures: this "
            f"one {known}; set it to one of them, or to '' for no best checkpoint"
        )


def _steps_done(trainer: Any) -> int:
    """Return the number of steps done, within a step or after the last one."""
    return min(trainer.iter + 1, trainer.max_iter)


# --- validation loss


def validation_losses(
    model: nn.Module, loaders: Iterable[Iterable[list[dict[str, Any]]]], seed: int
) -> dict[str, float]:
    """Return the training losses on other images, averaged over them; all processes must call it.

    The forward pass is that of training, without gradients and random augmentation. Batch norms use
    the statistics that an evaluation uses. The model, the random number generators and the logged
    values stay as they were.

    Args:
        model: the network, on its device.
        loaders: for each test set, batches of one image with its ``instances``.
        seed: the seed of what is drawn, such as the sampled RoIs.

    Returns:
        ``validation_loss``, the sum, and each loss that is part of it, such as
        ``validation_loss_cls``; empty in all processes but the main one.
    """
    model = unwrapped(model)
    device = next(model.parameters()).device
    gpus = [device] if device.type == "cuda" else []
    sums: dict[str, float] = {}
    count = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(seeded(seed))
        stack.enter_context(EventStorage(1))  # for what the heads log
        stack.enter_context(_as_in_training(model))
        for loader in loaders:
            for batch in told("validation loss", loader):
                seed_everything(seed, comm.get_rank(), count)
                losses = model(batch)
                losses = losses if isinstance(losses, dict) else {"loss": losses}
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + loss.item() * len(batch)
                count += len(batch)
    parts = comm.gather((sums, count))
    count = sum(number for _, number in parts)
    if not count:
        return {}
    names = dict.fromkeys(name for some, _ in parts for name in some)
    means = {name: sum(some.get(name, 0.0) for some, _ in parts) / count for name in names}
    return {VALIDATION_LOSS: sum(means.values())} | {
        f"validation_{name}": mean for name, mean in means.items() if name != "loss"
    }


@contextlib.contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Put a model but its batch norms in training mode; restore modes and running averages.

    A DenseDetector divides by a running average of what the training's batches hold, of several
    images; here it divides by what the image holds, so that the losses depend on the weights alone.
    """
    modes = {module: module.training for module in model.modules()}
    with averages_kept(model), contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, DenseDetector):
                stack.enter_context(overridden(module, _ema_update=lambda name, now, *_: now))
        model.train()
        for module in get_bn_modules(model):
            module.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


# --- averaged weights


class WeightAverager(HookBase):
    """Averages the weights over the steps with torch's :class:`AveragedModel` (EMA).

    With a decay of d, averages cover about the last 1 / (1 - d) steps. After n steps d is at most
    (1 + n) / (10 + n), so the start is soon forgotten. Statistics of norms are averaged as well.

    The averages are evaluated, and saved as a checkpoint's ``model``; the trained weights are saved
    in the state of this hook. Register it before the hook that saves.
    """

    def __init__(self, model: nn.Module, decay: float):
        """Take the network, not wrapped for several processes, and the decay, from 0 to below 1."""
        self._model = model

        def average(averages: list, weights: list, steps: torch.Tensor) -> None:
            # The count itself is on the CPU; reading ``steps``, its copy on a GPU, would wait.
            count = int(self._average.n_averaged)
            now = min(decay, (1 + count) / (10 + count))
            get_ema_multi_avg_fn(now)(averages, weights, steps)

        self._average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self._average.module

    def before_train(self) -> None:
        """See :meth:`HookBase.before_train`; the average begins with the first weights."""
        if not self._average.n_averaged:
            self._average.update_parameters(self._model)

    def after_step(self) -> None:
        """See :meth:`HookBase.after_step`; batches without an optimizer step do not count."""
        if not getattr(self.trainer.optimizer, "waiting", 0):
            self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`HookBase.state_dict`."""
        return {"trained": self._model.state_dict(), "steps": int(self._average.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`HookBase.load_state_dict`; the network must hold the loaded averages."""
        self.model.load_state_dict(self._model.state_dict())
        self._average.n_averaged.fill_(state["steps"])
        self._model.load_state_dict(state["trained"])


# --- several batches for a step

# The additional keys of an optimizer's state while batches wait for a step.
WAITING = ("waiting", "gradients")


class AccumulatingOptimizer:
    """An optimizer that steps once for several batches, with the mean of their gradients.

    For every batch Detectron2's trainer zeroes the gradients, adds the batch's and steps. The
    gradients added since the last step, the same in all processes, are saved with the optimizer's
    state.

    Attributes:
        waiting: the number of batches since the last step.
        is_last: whether the next step is the last, which waits for no more batches.
    """

    def __init__(self, optimizer: Optimizer, batches: int):
        """Take the optimizer, and the number of batches per step, 1 or more."""
        self._optimizer, self._batches = optimizer, batches
        # The schedule counts batches, so it advances before the optimizer's first step.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        self.waiting, self.is_last = 0, False

    def __getattr__(self, name: str) -> Any:
        if name == "_optimizer":  # not set yet while this object is copied
            raise AttributeError(name)
        return getattr(self._optimizer, name)

    @property
    def is_due(self) -> bool:
        """Whether to step after the batch whose gradients were added last."""
        return self.waiting >= self._batches or self.is_last

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`Optimizer.zero_grad`; each call begins a batch."""
        if not self.waiting:
            self._optimizer.zero_grad(*args, **kwargs)
        self.waiting += 1

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`Optimizer.step`."""
        if not self.is_due:
            return None
        for weight in self._weights():
            if weight.grad is not None:
                weight.grad /= self.waiting
        self.waiting = 0
        return self._optimizer.step(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Optimizer.state_dict`; torch's optimizers ignore the additional keys."""
        state = self._optimizer.state_dict()
        if self.waiting:
            state["waiting"] = self.waiting
            state["gradients"] = [weight.grad for weight in self._weights()]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`."""
        self._optimizer.load_state_dict(state)
        self.waiting = state.get("waiting", 0)
        for weight, gradient in zip(self._weights(), state.get("gradients", ()), strict=False):
            weight.grad = None if gradient is None else gradient.to(weight, copy=True)

    def _weights(self) -> list[nn.Parameter]:
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]


class AccumulatingScaler(torch.amp.GradScaler):
    """For an :class:`AccumulatingOptimizer`: keeps one scale until the optimizer steps."""

    _is_due = True

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`GradScaler.step`."""
        self._is_due = optimizer.is_due
        if not self._is_due:
            return None
        result = super().step(optimizer, *args, **kwargs)
        optimizer.waiting = 0  # an overflow skips the step, and its gradients must go too
        return result

    def update(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`GradScaler.update`."""
        if self._is_due:
            super().update(*args, **kwargs)
