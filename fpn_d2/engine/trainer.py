"""The trainer: Detectron2's :class:`DefaultTrainer`, assembled with three seams."""

import logging
import os
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from ..checkpoint import FPNCheckpointer
from ..data import build_test_loader, build_train_loader
from ..errors import UserError
from ..evaluation import MaskRecallEvaluator, ResultsWritingCOCOEvaluator
from ..export import PreparedModel, prepare_model
from .autocast import CPUAutocastTrainer, cpu_has_bfloat16

__all__ = ["Trainer"]


def _without_traceback(record: logging.LogRecord) -> bool:
    """A filter of Detectron2's log: a user's error is its sentence."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, UserError):
        record.msg, record.args = "Training stopped: %s", (error,)
        record.exc_info = record.exc_text = None
    return True


class Trainer(DefaultTrainer):
    """A :class:`DefaultTrainer` whose model wrapper, step and checkpointer can be replaced.

    ``DefaultTrainer.__init__`` wires the three fast, so it is not called; this constructor puts
    together the same public parts, in its order, with :meth:`wrap_model`, :meth:`build_step` and
    :meth:`build_checkpointer` in between. All else is inherited.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: a config from :func:`fpn_d2.load_config`.

        Raises:
            UserError: for a data set, a batch size or weights that cannot work.
        """
        TrainerBase.__init__(self)
        if cfg.FOUR_STEP.RPN:
            raise UserError(
                "this config is trained in steps (it has FOUR_STEP.RPN): use `python "
                "tools/train_four_step.py --config-file ...`; train_net.py takes it with "
                "--eval-only"
            )
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        # The loader before the model: a wrong data set shows in seconds, not minutes.
        data_loader = self.build_train_loader(cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        model = self.wrap_model(cfg, model)
        self._trainer = self.build_step(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.build_checkpointer(cfg, model)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """See :meth:`DefaultTrainer.resume_or_load`.

        Raises:
            UserError: where the checkpoint, or what it says of its training, cannot be used.
        """
        try:
            super().resume_or_load(resume)
        except TypeError as error:  # an iteration that is no number
            raise UserError(
                f"the newest checkpoint in {self.cfg.OUTPUT_DIR} does not say at which iteration "
                "it was written; delete it, or train without --resume"
            ) from error

    def train(self) -> Any:
        """See :meth:`DefaultTrainer.train`; a :class:`UserError` is left to be told in a sentence,
        where Detectron2 would log it with its traceback."""
        logger = logging.getLogger(TrainerBase.__module__)
        logger.addFilter(_without_traceback)
        try:
            return super().train()
        finally:
            logger.removeFilter(_without_traceback)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See :meth:`DefaultTrainer.build_model`; on CPUs channels-last, in which they convolve
        faster and the RoIs are pooled without a copy."""
        model = super().build_model(cfg)
        if cfg.MODEL.DEVICE == "cpu":
            model = model.to(memory_format=torch.channels_last)
        return model

    def wrap_model(self, cfg: CfgNode, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes, on CPUs too."""
        # Detectron2 passes device_ids, which DDP refuses for modules on a CPU.
        device_ids = {} if cfg.MODEL.DEVICE.startswith("cuda") else {"device_ids": None}
        return create_ddp_model(model, broadcast_buffers=False, **device_ids)

    def build_step(
        self,
        cfg: CfgNode,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
    ) -> SimpleTrainer:
        """The object that makes one step; in mixed precision with ``SOLVER.AMP.ENABLED``."""
        if not cfg.SOLVER.AMP.ENABLED:
            step = SimpleTrainer
        elif cfg.MODEL.DEVICE.startswith("cuda"):
            step = AMPTrainer
        else:
            step = CPUAutocastTrainer if cpu_has_bfloat16() else SimpleTrainer
        return step(model, data_loader, optimizer)

    def build_checkpointer(self, cfg: CfgNode, model: nn.Module) -> FPNCheckpointer:
        """The checkpointer, which also saves and restores this trainer's state."""
        return FPNCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        """See :func:`fpn_d2.data.build_train_loader`."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        """See :func:`fpn_d2.data.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """See :meth:`DefaultTrainer.test`; on a prepared copy of the model, as ``cfg.INFERENCE``
        says."""
        keys = cfg.INFERENCE
        if keys.PREPARE and not isinstance(model, PreparedModel):
            model = prepare_model(model, precision=keys.PRECISION, compile=keys.COMPILE)
        return super().test(cfg, model, evaluators)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """COCO's metrics, with each test set's results in a folder of its own.

        Detectron2's train_net uses one folder for all, so that the proposals of the training set
        and those of the validation set overwrite each other.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        if cfg.MODEL.META_ARCHITECTURE == "MaskProposalNetwork":
            return MaskRecallEvaluator(dataset_name, output_dir=folder)
        return ResultsWritingCOCOEvaluator(dataset_name, output_dir=folder)
