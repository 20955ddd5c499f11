"""What a resumed training keeps, takes anew from its config, or refuses to change."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..config import flat
from ..utils.errors import UserError
from ..utils.files import is_local

logger = logging.getLogger(__name__)

# How many values Detectron2's writers take the median of.
_WINDOW = 20
_CLOCKS = ("time", "data_time", "rank_data_time", "eta_seconds")
# An attribute of Detectron2's DenseDetector, such as RetinaNet; no buffer, so not in the weights.
_AVERAGE = "loss_normalizer"


class ResumeState(HookBase):
    """What a resumed training needs besides weights, optimizer, schedule and iteration.

    Whatever a step draws is a function of the seed and the iteration (``data/stream.py``,
    ``Trainer.run_step``). This is the rest: a seed that was drawn, the running averages that
    Detectron2's models keep as Python numbers, different in each process, and the latest values of
    the metrics, which are logged as medians.

    Detectron2's trainer saves and loads it with its own state. Register it before the hook that
    saves, in every process.

    Attributes:
        seed: the seed of the resumed training; None if none was resumed.
        config: the settings of the resumed training, by key; {} if unknown.
        averages: ``{module: value}`` for each process, by its rank.
    """

    def __init__(self):
        self.seed: int | None = None
        self.config: dict[str, Any] = {}
        self.averages: list[dict[str, float]] = []
        self._history: dict[str, list[tuple[float, int]]] = {}

    def before_train(self) -> None:
        """Put back what was loaded."""
        trainer = self.trainer
        rank = comm.get_rank()
        if self.averages and len(self.averages) != comm.get_world_size():
            logger.warning(
                "The training was begun in %d processes and goes on in %d: its losses will differ "
                "from those of an uninterrupted one",
                len(self.averages),
                comm.get_world_size(),
            )
        if rank < len(self.averages):
            modules = dict(unwrapped(trainer.model).named_modules())
            for name, value in self.averages[rank].items():
                own = vars(modules[name]).get(_AVERAGE)
                value = torch.full_like(own, value) if isinstance(own, Tensor) else value
                setattr(modules[name], _AVERAGE, value)
        if trainer.start_iter < trainer.max_iter:
            for name, values in self._history.items():
                for value, iteration in values:
                    trainer.storage.put_scalar(name, value, cur_iter=iteration)

    def after_step(self) -> None:
        """Note a single process's averages; :class:`StepExchange` notes those of several."""
        if comm.get_world_size() == 1:
            self.averages = [averages_of(self.trainer.model)]

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`HookBase.state_dict`; made of plain containers, as checkpoints are."""
        storage = getattr(self.trainer, "storage", None)
        history = {} if storage else self._history
        for name, smoothed in storage.smoothing_hints().items() if storage else ():
            if smoothed and name not in _CLOCKS:
                values = storage.history(name).values()[-_WINDOW:]
                history[name] = [(float(value), int(iteration)) for value, iteration in values]
        cfg = self.trainer.cfg
        state = {"seed": cfg.SEED, "averages": self.averages, "history": history}
        return {**state, "config": flat(cfg)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`HookBase.load_state_dict`."""
        self.seed, self.config = state["seed"], state.get("config", {})
        self.averages, self._history = state["averages"], state["history"]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model without DistributedDataParallel, which a restart may add or drop."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def averages_of(model: nn.Module) -> dict[str, float]:
    """Return the running averages of a model's modules, by module name."""
    modules = unwrapped(model).named_modules()
    # A keypoint head has a setting of the same name; somebody's own buffer is among the weights.
    kept = {n: vars(m).get(_AVERAGE) for n, m in modules if not isinstance(m, BaseKeypointRCNNHead)}
    return {n: float(x) for n, x in kept.items() if _is_number(x)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


@contextlib.contextmanager
def averages_kept(model: nn.Module) -> Iterator[None]:
    """Restore a model's running averages afterwards, or remove them where it had none."""
    before = {m: vars(m)[_AVERAGE] for m in model.modules() if _AVERAGE in vars(m)}
    # somebody's own may be changed in place
    before = {m: x.clone() if isinstance(x, Tensor) else x for m, x in before.items()}
    try:
        yield
    finally:
        for module in model.modules():
            vars(module).pop(_AVERAGE, None)
        for module, value in before.items():
            setattr(module, _AVERAGE, value)


# --- what a config may change


# The options of an optimizer's groups. What else is there may be counters of an optimizer.
_SETTINGS = ("weight_decay", "nesterov", "dampening", "eps", "foreach", "fused", "capturable")
# Those that schedules other than Detectron2's may change at every step.
_SCHEDULED = ("lr", "initial_lr", "momentum", "betas")
# These keys decide which parameters share an optimizer group, and so the order of its states.
_GROUPING = ("SOLVER.BIAS_LR_FACTOR", "SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM")
_WORLD = "SOLVER.REFERENCE_WORLD_SIZE"


def check_resumable(
    cfg: CfgNode, model: nn.Module, optimizer: Optimizer, checkpoint: Mapping[str, Any], path: str
) -> None:
    """Refuse a config whose training cannot go on from a checkpoint, before anything is loaded.

    Args:
        cfg: the config, with batch and schedule for the number of processes.
        model, optimizer: those of the config, as built.
        checkpoint: the content of the checkpoint.
        path: the path of the checkpoint, for the message.

    Raises:
        UserError: naming the keys that cannot be changed, and what they were.
    """
    before = _inner(checkpoint, "trainer", "hooks", "ResumeState", "config")
    new = changes(before if isinstance(before, dict) else {}, cfg)
    # Batch and schedule of a training that is under way do not follow the number of processes.
    old, now = new.get(_WORLD, (0, 0))
    if old and now:
        folder = cfg.OUTPUT_DIR
        raise UserError(
            f"{_WORLD} makes batch and schedule for {now} processes, and the training in {folder} "
            f"was begun with {old}; start {old} again, or go on with its batch and schedule "
            f"as they are by `--config-file {folder}/config.yaml --resume {_WORLD} 0`"
        )
    other = f"or set another OUTPUT_DIR for a training of its own: --resume goes on with {path}"
    if "MODEL.WEIGHTS" in new:
        old, now = new["MODEL.WEIGHTS"]
        raise UserError(f"MODEL.WEIGHTS is {now!r}, and was {old!r}; set it to that again, {other}")
    done = checkpoint.get("iteration")
    if isinstance(done, int) and done >= cfg.SOLVER.MAX_ITER:
        raise UserError(
            f"SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}, and {done + 1} iterations are done; set it "
            f"to {done + 1} or more, {other}"
        )
    fault, sections = _mismatch(model, checkpoint), ("MODEL.",)
    if fault is None:
        fault, sections = _regrouping(optimizer, checkpoint), ("MODEL.", *_GROUPING)
    if fault is not None:
        keys = [key for key in new if key.startswith(sections) and key != "MODEL.DEVICE"]
        if not keys:
            raise UserError(f"{fault}; set the keys of the network to what they were, {other}")
        values = ", ".join(f"{key} to {new[key][0]!r}" for key in keys)
        raise UserError(f"{fault}; set {values} as before, {other}")


def changes(before: Mapping[str, Any], cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Return the values before and now of the keys that differ from the resumed training's.

    ``OUTPUT_DIR`` does not count: the folder may have moved.
    """
    return {
        key: (before[key], value)
        for key, value in flat(cfg).items()
        if key in before and key != "OUTPUT_DIR" and not _same(key, before[key], value)
    }


def take_settings(
    optimizer: Optimizer, scheduler: Any, settings: list[dict[str, Any]], iteration: int
) -> None:
    """Replace the settings that a checkpoint brought with a config's; states stay, and with a
    schedule of one's own what schedules change.

    Args:
        optimizer, scheduler: those that have loaded a checkpoint.
        settings: the options of each optimizer group as it was built, without its parameters.
        iteration: the next iteration.
    """
    is_stock = isinstance(scheduler, LRMultiplier)
    taken = (*_SETTINGS, *_SCHEDULED) if is_stock else _SETTINGS
    for group, built in zip(optimizer.param_groups, settings, strict=True):
        group.update({k: value for k, value in built.items() if k in taken or k not in group})
    if is_stock:
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        scheduler.last_epoch = iteration
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate


def _mismatch(model: nn.Module, checkpoint: Mapping[str, Any]) -> str | None:
    """Name a model parameter that the checkpoint lacks or has in another shape; None if none."""
    weights = {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}
    for name, value in unwrapped(model).named_parameters():
        if name not in weights:
            return f"the network of this config has {name}, and the trained one has not"
        if tuple(weights[name].shape) != tuple(value.shape):
            return (
                f"{name} has the shape {tuple(value.shape)} by this config, and "
                f"{tuple(weights[name].shape)} in the trained network"
            )
    return None


def _regrouping(optimizer: Optimizer, checkpoint: Mapping[str, Any]) -> str | None:
    """Say how many parameters each optimizer group has, and had, if that differs; else None."""
    groups = _inner(checkpoint, "trainer", "_trainer", "optimizer", "param_groups")
    if not isinstance(groups, list):
        return None  # loading it shows what is wrong with it
    before = [len(_inner(group, "params") or ()) for group in groups]
    now = [len(group["params"]) for group in optimizer.param_groups]
    if before == now:
        return None
    return f"by this config {now} parameters are trained in each group, and {before} were so far"


def _inner(content: Any, *keys: str) -> Any:
    """Return a value from nested dicts that anybody may have written; None if it is not there."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _same(key: str, before: Any, now: Any) -> bool:
    """Whether two values are equal; a file may be named by more than one path."""
    if key == "MODEL.WEIGHTS" and before and now and is_local(before) and is_local(now):
        return os.path.realpath(before) == os.path.realpath(now)
    return _plain(before) == _plain(now)


def _plain(value: Any) -> Any:
    """Turn tuples into lists: YAML does not tell them apart."""
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
