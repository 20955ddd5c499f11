"""What a resumed training needs besides weights, optimizer, schedule and iteration.

Most of it is computed again: the order of the images, their augmentations and all that a step
draws are functions of the seed and the iteration (``data/stream.py``, ``Trainer.run_step``). This
is the rest: a seed that was drawn, running averages that Detectron2's models keep in Python
numbers, in every process its own, and the last values of the metrics, which are logged as medians.
"""

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

__all__ = ["ResumeState", "with_seed"]

logger = logging.getLogger(__name__)

# What Detectron2's writers take the median of.
_WINDOW = 20
_CLOCKS = ("time", "data_time", "rank_data_time", "eta_seconds")
# Of Detectron2's DenseDetector, RetinaNet say; no buffer, so not among the weights.
_AVERAGE = "loss_normalizer"


def with_seed(cfg: CfgNode, seed: int | None = None) -> CfgNode:
    """The config with a seed from 0 on, in all processes the same.

    Args:
        cfg: the merged config.
        seed: the seed; by default the config's, or a drawn one where that is negative.
    """
    if seed is None:
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    cfg.freeze()
    return cfg


class ResumeState(HookBase):
    """A hook whose state Detectron2's trainer saves and loads with its own.

    It must be before the hook that saves, and in every process.

    Attributes:
        seed: of the training that was resumed; None without one.
    """

    def __init__(self):
        self.seed: int | None = None
        self._averages: list[dict[str, float]] = []
        self._history: dict[str, list[tuple[float, int]]] = {}

    def before_train(self) -> None:
        """Put back what was loaded."""
        trainer = self.trainer
        rank = comm.get_rank()
        if self._averages and len(self._averages) != comm.get_world_size():
            logger.warning(
                "The training was begun in %d processes and goes on in %d: its losses will be "
                "others than those of an uncut one",
                len(self._averages),
                comm.get_world_size(),
            )
        if rank < len(self._averages):
            modules = dict(_unwrapped(trainer.model).named_modules())
            for name, value in self._averages[rank].items():
                setattr(modules[name], _AVERAGE, value)
        if trainer.start_iter < trainer.max_iter:
            for name, values in self._history.items():
                for value, iteration in values:
                    trainer.storage.put_scalar(name, value, cur_iter=iteration)

    def after_step(self) -> None:
        """Collect what every process has of its own."""
        modules = _unwrapped(self.trainer.model).named_modules()
        own = {name: getattr(m, _AVERAGE) for name, m in modules if hasattr(m, _AVERAGE)}
        # Without averages there are none in any process, and nothing to wait for.
        self._averages = comm.all_gather(own) if own else [{}] * comm.get_world_size()

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`HookBase.state_dict`; of plain containers, as checkpoints are to be."""
        storage = getattr(self.trainer, "storage", None)
        history = {} if storage else self._history
        for name, smoothed in storage.smoothing_hints().items() if storage else ():
            if smoothed and name not in _CLOCKS:
                values = storage.history(name).values()[-_WINDOW:]
                history[name] = [(float(value), int(iteration)) for value, iteration in values]
        return {
            "seed": self.trainer.cfg.SEED,
            "averages": [
                {name: float(value) for name, value in averages.items()}
                for averages in self._averages
            ],
            "history": history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`HookBase.load_state_dict`."""
        self.seed = state["seed"]
        self._averages, self._history = state["averages"], state["history"]


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model without DistributedDataParallel, in which a restart may wrap it or not."""
    return getattr(model, "module", model)
