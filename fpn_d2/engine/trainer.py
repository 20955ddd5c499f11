"""The trainer: Detectron2's :class:`DefaultTrainer`, assembled with three seams.

Every random number of a step is a function of the seed and the iteration, so that a resumed
training equals one that was never cut.
"""

import logging
import os
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from ..checkpoint import SafeCheckpointer
from ..data import TrainStream, build_test_loader, build_train_loader
from ..evaluation import MaskRecallEvaluator, ResultsWritingCOCOEvaluator
from ..inference import PreparedModel, compile_backbone, prepare_model
from ..layers import convolve_linears
from ..modeling import check_registered
from ..utils.errors import UserError
from ..utils.files import remove_partial_files
from ..utils.seeding import seed_everything
from .autocast import CPUAutocastTrainer, cpu_has_bfloat16
from .loss_guard import LossGuard
from .metrics_log import keep_steps_before
from .output_dir import clear_output_dir
from .resuming import ResumeState, with_seed
from .stopping import Halt, Stopper

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
            UserError: for a component, a data set or a batch size that cannot work.
        """
        TrainerBase.__init__(self)
        if cfg.FOUR_STEP.RPN:
            raise UserError(
                "this config is trained in steps (it has FOUR_STEP.RPN): use `python "
                "tools/train_four_step.py --config-file ...`; train_net.py takes it with "
                "--eval-only"
            )
        check_registered(cfg)
        self._seed_is_drawn = cfg.SEED < 0
        cfg = with_seed(self.auto_scale_workers(cfg, comm.get_world_size()))
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
        self.stopper = Stopper()
        self.resume_state = ResumeState()
        self.register_hooks(self.build_hooks())
        self._loss_guard = LossGuard(model, cfg.OUTPUT_DIR)
        self._trainer.register_hooks([self._loss_guard])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See :meth:`DefaultTrainer.build_model`; on CPUs channels-last, in which they convolve
        faster and the RoIs are pooled without a copy, with large linear layers convolved where
        that is faster; compiled with ``SOLVER.COMPILE``."""
        model = super().build_model(cfg)
        if cfg.MODEL.DEVICE == "cpu":
            model = model.to(memory_format=torch.channels_last)
            convolve_linears(model)
        if cfg.SOLVER.COMPILE:
            compile_backbone(model)
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

    def build_checkpointer(self, cfg: CfgNode, model: nn.Module) -> SafeCheckpointer:
        """The checkpointer, which also saves and restores this trainer's state."""
        return SafeCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))

    def build_hooks(self) -> list[HookBase | None]:
        """See :meth:`DefaultTrainer.build_hooks`; with what resumes and stops a training."""
        hooks = []
        for hook in super().build_hooks():
            late = isinstance(hook, (PeriodicCheckpointer, EvalHook))
            if late and self.stopper not in hooks:
                hooks += [self.resume_state, self.stopper]
            if isinstance(hook, EvalHook):
                hooks.append(self.stopper.before_evaluation())
            hooks.append(hook)
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """See :meth:`DefaultTrainer.resume_or_load`.

        What an earlier training left in ``OUTPUT_DIR`` goes: of its metrics what is trained again,
        and with ``OVERWRITE_OUTPUT_DIR``, where nothing is resumed, its checkpoints; and what a
        kill has left half written.

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
        seed = self.resume_state.seed
        if self._seed_is_drawn and seed is not None:
            self.cfg = with_seed(self.cfg, seed)
            self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg))
        if comm.is_main_process():
            if not resume and self.cfg.OVERWRITE_OUTPUT_DIR:
                clear_output_dir(self.cfg.OUTPUT_DIR)
            keep_steps_before(self.cfg.OUTPUT_DIR, self.start_iter)
            remove_partial_files(self.cfg.OUTPUT_DIR)
        final = os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")
        if self.start_iter >= self.max_iter and not os.path.isfile(final):
            # Cut between the last numbered checkpoint and this one, which no step will write.
            self.checkpointer.save("model_final", iteration=self.iter)

    def train(self) -> dict[str, Any] | None:
        """See :meth:`DefaultTrainer.train`.

        SIGINT (Ctrl-C) and SIGTERM end the program after the step that they meet and a checkpoint.

        Raises:
            UserError: where a loss is NaN or infinite, or images cannot be read.
            SystemExit: after a signal, with code 130 or 143.
        """
        stream = getattr(self._trainer.data_loader, "dataset", None)
        if isinstance(stream, TrainStream):
            stream.first_batch = self.start_iter
        # TorchScript (RetinaNet's losses) computes a process's first step by other instructions
        # than those after it, so that a resumed training would differ in rounding.
        optimized = torch.jit.optimized_execution(self.cfg.MODEL.DEVICE != "cpu")
        # Detectron2 logs whatever stops a training, with its traceback.
        logging.getLogger(TrainerBase.__module__).addFilter(_without_traceback)
        with self.stopper.listening(), optimized:
            try:
                return super().train()
            except Halt as halt:
                raise halt.error from None
            except SystemExit:
                comm.synchronize()  # the first process to end would take the others with it
                raise

    def run_step(self) -> None:
        """See :meth:`DefaultTrainer.run_step`; what it draws depends on no step before."""
        seed_everything(self.cfg.SEED, comm.get_rank(), self.iter)
        try:
            super().run_step()
        except FloatingPointError as error:  # of Detectron2's RPN, before there are losses
            raise self._loss_guard.halt_without_losses() from error

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
