"""What a training may do beside its steps: keep the best weights, stop early, measure losses on
test sets, average its weights, and step once for several batches.

Everything here is off by default, and resumes with the training: what a hook or the optimizer
has to remember is in its ``state_dict``, which Detectron2's trainer saves.
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
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..utils.errors import UserError
from ..utils.progress import told
from ..utils.seeding import seed_everything, seeded
from .resume_state import averages_kept, unwrapped

logger = logging.getLogger(__name__)

BEST = "model_best"
VALIDATION_LOSS = "validation_loss"


# --- evaluation, the best checkpoint and early stopping


class EarlyStop(Exception):
    """Ends a training whose metric has not become better for long enough; no error."""


class Evaluation:
    """What an :class:`EvalHook` calls, which measures the same weights once: after a training that
    stops early Detectron2 would evaluate again.

    Attributes:
        hook: the hook.
        measured: the steps before the last evaluation, and its results.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any]]):
        """Take the iterations from one evaluation to the next, and the function that evaluates."""
        self.period = period
        self.measured: tuple[int, dict[str, Any]] | None = None
        self.hook = EvalHook(period, lambda: self._once(evaluate))

    def _once(self, evaluate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        done = _steps_done(self.hook.trainer)
        if self.measured is None or self.measured[0] != done:
            self.measured = done, evaluate()
        return self.measured[1]

    def is_due(self, done: int) -> bool:
        """Whether to evaluate after so many steps, the end of the training aside."""
        return self.period > 0 and done % self.period == 0


class BestKeeper(BestCheckpointer):
    """Detectron2's :class:`BestCheckpointer`, whose state resumes, with early stopping.

    A checkpoint is written before the evaluation of its iteration. A training that is resumed from
    it makes this evaluation anew, so it stands where an uncut one does. It belongs right behind
    the hook of the :class:`Evaluation`, in every process.

    Attributes:
        waited: evaluations since the best one.
    """

    def __init__(
        self, evaluation: Evaluation, metric: str, patience: int, checkpointer: Any, checked: bool
    ):
        """
        Args:
            evaluation: that of the hook before this one.
            metric: such as ``bbox/AP``; of a loss the least is the best.
            patience: evaluations without a better one that end the training; 0 never does.
            checkpointer: writes ``model_best.pth``.
            checked: whether the metric is known to be measured, if there is anything to measure.
        """
        is_loss = "loss" in metric and "/AP" not in metric  # a class may be called blossom
        mode = "min" if is_loss else "max"
        super().__init__(evaluation.period, self, metric, mode, BEST)
        self.waited = 0
        self._evaluation, self._checked = evaluation, checked
        self._metric, self._patience = metric, patience
        self._writer, self._best_state = checkpointer, None
        self._judged = 0  # the steps before the last evaluation that was judged

    @property
    def is_exhausted(self) -> bool:
        """Whether the training has waited long enough."""
        return 0 < self._patience <= self.waited

    def save(self, name: str, **state: Any) -> None:
        """Take the order of :class:`BestCheckpointer`, which gives it before it notes the best."""
        self._best_state = {"iteration": min(state["iteration"], self.trainer.max_iter - 1)}

    def before_train(self) -> None:
        """See :meth:`HookBase.before_train`; makes the evaluation that a resumed one lacks."""
        trainer, start = self.trainer, self.trainer.start_iter
        is_resumed = 0 < start < trainer.max_iter
        if is_resumed and self._evaluation.is_due(start) and self._judged != start:
            trainer.iter = trainer.storage.iter = start - 1
            self._evaluation.hook.after_step()
            self.after_step()

    def after_step(self) -> None:
        """See :meth:`BestCheckpointer.after_step`.

        Raises:
            UserError: if no evaluator has measured the metric.
            EarlyStop: if it is time.
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
            # What Detectron2's loop leaves behind its last step.
            trainer.max_iter = trainer.iter = done
            raise EarlyStop

    def after_train(self) -> None:
        """See :meth:`BestCheckpointer.after_train`."""
        if self.trainer.iter >= self.trainer.max_iter and self._judged != self.trainer.max_iter:
            self._judge(super().after_train)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`HookBase.state_dict`."""
        names = ("best_metric", "best_iter", "waited", "_judged")
        return {"metric": self._metric, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`HookBase.load_state_dict`; of another metric nothing is taken."""
        if state.pop("metric") == self._metric:
            vars(self).update(state)

    def _judge(self, judge: Callable[[], None]) -> None:
        if comm.is_main_process():  # the others have no results
            if not self._checked:
                check_metric(self._metric, flatten_results_dict(self._evaluation.measured[1]))
            before = self.best_metric
            judge()
            # Where none is the best one yet, as while the metric is NaN, none is worse.
            is_worse = before is not None and self.best_metric == before
            self.waited = self.waited + 1 if is_worse else 0
        self._judged = _steps_done(self.trainer)
        if self._best_state is not None:
            self._writer.save(BEST, **self._best_state)
            self._best_state = None


def check_metric(metric: str, reported: Iterable[str]) -> None:
    """Refuse a ``TEST.BEST_METRIC`` that is not among the metrics that are reported."""
    names = list(reported)
    if metric not in names:
        known = f"reports {', '.join(names)}" if names else "reports no metric"
        raise UserError(
            f"TEST.BEST_METRIC is {metric!r}, which no evaluation of DATASETS.TEST measures: this "
            f"one {known}; set it to one of them, or to '' for no best checkpoint"
        )


def _steps_done(trainer: Any) -> int:
    """The steps behind an evaluation, within a step or after the last one."""
    return min(trainer.iter + 1, trainer.max_iter)


# --- validation loss


def validation_losses(
    model: nn.Module, loaders: Iterable[Iterable[list[dict[str, Any]]]], seed: int
) -> dict[str, float]:
    """The training losses on other images, as means over the images; all processes call it.

    A forward pass as in training, without gradients and random augmentation. Batch norms take the
    statistics that an evaluation takes. The model, random numbers and logged values stay as they
    were.

    Args:
        model: the network, on its device.
        loaders: of each test set, batches of one image with its ``instances``.
        seed: of what is drawn, such as the sampled RoIs.

    Returns:
        ``validation_loss``, the sum, and for each loss its part, such as ``validation_loss_cls``;
        empty in all processes but the main one.
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
        stack.enter_context(EventStorage(1))  # where the heads log what they meet
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
    """Put a model in training mode but for its batch norms, and back, with its running averages."""
    modes = {module: module.training for module in model.modules()}
    with averages_kept(model):
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
    """Averages the weights over the steps, by torch's :class:`AveragedModel` (EMA).

    Averages with a decay of d weigh the last 1 / (1 - d) steps or so. After n steps d is at most
    (1 + n) / (10 + n), so the start is soon forgotten. Norms' statistics are averaged as well.

    What is evaluated, and saved as a checkpoint's ``model``, are the averages; the weights that are
    trained go with the state of this hook. It belongs before the hook that saves.
    """

    def __init__(self, model: nn.Module, decay: float):
        """Take the network, not wrapped for several processes, and the decay, from 0 to below 1."""
        self._model = model

        def average(averages: list, weights: list, steps: torch.Tensor) -> None:
            now = min(decay, (1 + int(steps)) / (10 + int(steps)))
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
        """See :meth:`HookBase.after_step`; batches for which the optimizer waits do not count."""
        if not getattr(self.trainer.optimizer, "waiting", 0):
            self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`HookBase.state_dict`."""
        return {"trained": self._model.state_dict(), "steps": int(self._average.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`HookBase.load_state_dict`; the network holds the averages, as loaded."""
        self.model.load_state_dict(self._model.state_dict())
        self._average.n_averaged.fill_(state["steps"])
        self._model.load_state_dict(state["trained"])


# --- several batches for a step

# What the state of an optimizer has more while batches wait.
WAITING = ("waiting", "gradients")


class AccumulatingOptimizer:
    """An optimizer that steps once for several batches, by the mean of their gradients.

    Detectron2's trainer zeroes the gradients, adds a batch's and steps, for every batch. The
    gradients of the batches that wait, the same in all processes, are saved with the optimizer's
    state.

    Attributes:
        waiting: batches since the last step.
        is_last: whether the next step is the last, which waits for no more batches.
    """

    def __init__(self, optimizer: Optimizer, batches: int):
        """Take the optimizer, and the batches for a step, from 1 on."""
        self._optimizer, self._batches = optimizer, batches
        # The schedule counts batches, so it goes on before the first step.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        self.waiting, self.is_last = 0, False

    def __getattr__(self, name: str) -> Any:
        if name == "_optimizer":  # not yet there while it is copied
            raise AttributeError(name)
        return getattr(self._optimizer, name)

    @property
    def is_due(self) -> bool:
        """Whether the batch whose gradients were added last is one to step after."""
        return self.waiting >= self._batches or self.is_last

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`Optimizer.zero_grad`, which begins a batch."""
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
        """See :meth:`Optimizer.state_dict`; torch's optimizers leave out what else is in it."""
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
    """For an :class:`AccumulatingOptimizer`: the gradients that wait have one scale."""

    _is_due = True

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`GradScaler.step`."""
        self._is_due = optimizer.is_due
        if not self._is_due:
            return None
        result = super().step(optimizer, *args, **kwargs)
        optimizer.waiting = 0  # an overflow leaves the step out, and its gradients have to go too
        return result

    def update(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`GradScaler.update`."""
        if self._is_due:
            super().update(*args, **kwargs)
