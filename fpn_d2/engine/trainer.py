"""The trainer: a :class:`DefaultTrainer` that resumes bit for bit and also trains on CPUs.

Every random number in a step is a function of the seed and the iteration, so a resumed training
equals an uninterrupted one.
"""

import contextlib
import functools
import logging
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.solver import LRMultiplier
from detectron2.solver import build as detectron2_solver
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter
from fvcore.common.param_scheduler import ParamScheduler, StepWithFixedGammaParamScheduler
from fvcore.nn.precise_bn import get_bn_modules
from torch import distributed, nn
from torch.optim import Optimizer

from ..checkpoint import SafeCheckpointer, trained_class_names
from ..config import changed
from ..config_checks import check_own_keys, check_registered
from ..config_combinations import LOOKED_UP, tell_doubts
from ..data import TrainStream, build_loss_loader, build_test_loader, build_train_loader
from ..data.stream import seed_everything
from ..evaluation import build_evaluator, metric_names
from ..inference import PreparedModel, compile_backbone, prepare_as_configured
from ..inference.prepared import PRECISIONS
from ..layers import speed_up_gradients, speed_up_linears, steady_group_norms
from ..modeling import bound_matching
from ..utils.errors import UserError, machine_fault
from ..utils.files import remove_partial_files
from ..utils.modules import overridden, to_channels_last
from .hooks import (
    CPUAutocastTrainer,
    GradientFiller,
    ProgressTeller,
    StepExchange,
    Stopper,
    cpu_has_bfloat16,
)
from .launch import scale_schedule
from .monitoring import (
    VALIDATION_LOSS,
    WAITING,
    AccumulatingOptimizer,
    AccumulatingScaler,
    BestKeeper,
    EarlyStop,
    Evaluation,
    WeightAverager,
    check_metric,
    validation_losses,
)
from .output_dir import clear_output_dir, keep_steps_before, rewrite_config
from .resume_state import ResumeState, changes, check_resumable, take_settings, unwrapped

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """A :class:`DefaultTrainer` for one process or several, on GPUs and on CPUs.

    Subclass it like Detectron2's: its ``build_...`` methods are called by the same rules. Only the
    constructor of :class:`DefaultTrainer` is not called: it would pass ``device_ids`` for modules
    on a CPU, and it hard-codes the classes that run a step and write checkpoints. This one
    assembles the same parts in the same order, except that the loader comes first.
    """

    def __init__(self, cfg: CfgNode):
        """Take a config from :func:`fpn_d2.load_config`, frozen or not.

        Raises:
            UserError: if a component, a data set or a batch size cannot work.
        """
        TrainerBase.__init__(self)
        check_registered(cfg)
        if cfg.FOUR_STEP.RPN:
            raise UserError(
                "this config is trained in steps (it has FOUR_STEP.RPN): use `python "
                "tools/train_four_step.py --config-file ...`; train_net.py takes it with "
                "--eval-only"
            )
        self._seed_is_drawn = cfg.SEED < 0
        seed = comm.shared_random_seed() if self._seed_is_drawn else cfg.SEED
        cfg = changed(self.auto_scale_workers(cfg, comm.get_world_size()), {"SEED": seed})
        # Build the loader before the model: a wrong data set shows in seconds, not minutes.
        data_loader = self.build_train_loader(cfg)
        metric_is_known = self._check_best_metric(cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        _check_norms(cfg, model)
        decay = cfg.SOLVER.EMA_DECAY
        self.averager = WeightAverager(model, decay) if decay > 0 else None
        # DistributedDataParallel refuses Detectron2's device_ids for a module on a CPU.
        device_ids = {} if cfg.MODEL.DEVICE.startswith("cuda") else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **device_ids)
        self._trainer = _step(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        if isinstance(self.scheduler, ParamScheduler):  # Detectron2 does this as a training starts
            self.scheduler = LRMultiplier(optimizer, self.scheduler, cfg.SOLVER.MAX_ITER)
        self.checkpointer = SafeCheckpointer(
            model, cfg.OUTPUT_DIR, class_names=trained_class_names(cfg), trainer=weakref.proxy(self)
        )
        self.checkpointer.before_resume = functools.partial(check_resumable, cfg, model, optimizer)
        if self.averager is not None:
            self.checkpointer.saved_model = self.averager.model
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.stopper = Stopper()
        self.resume_state = ResumeState()
        self.evaluation = Evaluation(cfg.TEST.EVAL_PERIOD, self._evaluate)
        self.best_keeper: BestKeeper | None = None
        if cfg.TEST.BEST_METRIC and cfg.DATASETS.TEST:
            self.best_keeper = BestKeeper(
                self.evaluation,
                cfg.TEST.BEST_METRIC,
                cfg.TEST.PATIENCE,
                self.checkpointer,
                metric_is_known,
            )
        self._writers: list[EventWriter] = []
        self.register_hooks(self.build_hooks())
        self._exchange = StepExchange(model, cfg.OUTPUT_DIR, self.stopper, self.resume_state)
        self._trainer.register_hooks([self._exchange])
        clipping = cfg.SOLVER.CLIP_GRADIENTS
        if clipping.ENABLED and clipping.CLIP_TYPE == "value":
            self._trainer.register_hooks([GradientFiller()])

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """See :meth:`DefaultTrainer.auto_scale_workers`; short periods are not rounded to 0."""
        return scale_schedule(cfg, num_workers)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See :meth:`DefaultTrainer.build_model`; ``SOLVER.COMPILE`` compiles its backbone.

        On a CPU a model without keypoints is channels-last, which convolves faster and pools RoIs
        without a copy, and the gradient of an RPN's 3 x 3 convolution comes from the cells of the
        sampled anchors; where faster on this processor, oneDNN computes large linear layers,
        gradients of convolutions are computed channels-first and wide convolutions by Winograd's
        method. On every device, many objects are matched in bounded memory.
        """
        model = bound_matching(super().build_model(cfg))
        if cfg.MODEL.DEVICE == "cpu":
            if not cfg.MODEL.KEYPOINT_ON:  # Detectron2's loss of keypoints takes no such maps
                to_channels_last(model)
                steady_group_norms(model)
                speed_up_gradients(model)
            speed_up_linears(model)
        if cfg.SOLVER.COMPILE:
            compile_backbone(model)
        return model

    def build_hooks(self) -> list[HookBase | None]:
        """See :meth:`DefaultTrainer.build_hooks`; adds hooks to resume and stop a training."""
        hooks = [self.resume_state, self.averager, *super().build_hooks()]
        place = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        evaluations = [self.stopper, self.evaluation.hook, self.best_keeper]
        if self.cfg.TEST.AUG.ENABLED:  # as in Detectron2's train_net
            after = EvalHook(0, lambda: self.test_with_TTA(self.cfg, self.evaluated_model))
            evaluations.append(after)
        hooks[place : place + 1] = evaluations  # before the metrics are written
        if comm.is_main_process():
            hooks.insert(-1, ProgressTeller())  # the writer is last: programs insert before it
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """See :meth:`DefaultTrainer.build_writers`."""
        self._writers = super().build_writers()
        return self._writers

    @property
    def evaluated_model(self) -> nn.Module:
        """The network to evaluate: the one with averaged weights, if weights are averaged."""
        return self.model if self.averager is None else self.averager.model

    def _evaluate(self) -> dict[str, Any]:
        """Return the metrics on the test sets and, with ``TEST.VALIDATION_LOSS``, the losses."""
        if comm.get_world_size() > 1:  # statistics differ by process, and the first one's are saved
            for norm in get_bn_modules(self.evaluated_model):
                for buffer in norm.buffers():
                    distributed.broadcast(buffer, 0)
        # A test of one's own may return nothing, which Detectron2's EvalHook takes.
        self._last_eval_results = self.test(self.cfg, self.evaluated_model) or {}
        if not (self.cfg.TEST.VALIDATION_LOSS and self.cfg.DATASETS.TEST):
            return self._last_eval_results
        loaders = (build_loss_loader(self.cfg, name) for name in self.cfg.DATASETS.TEST)
        with _naming_divergence():
            losses = validation_losses(self.evaluated_model, loaders, self.cfg.SEED)
        return {**self._last_eval_results, **losses}

    @classmethod
    def _check_best_metric(cls, cfg: CfgNode) -> bool:
        """Refuse a ``TEST.BEST_METRIC`` that is not measured; return whether this was checked."""
        tests, metric = cfg.DATASETS.TEST, cfg.TEST.BEST_METRIC
        if not metric:
            return False
        if not tests:
            logger.warning("DATASETS.TEST names no data set, so there is no best checkpoint")
            return False
        names = [VALIDATION_LOSS] if cfg.TEST.VALIDATION_LOSS else []
        for test in tests:
            of_test = metric_names(cfg, test, cls.build_evaluator(cfg, test))
            if of_test is None:
                return False
            names += [f"{test}/{name}" if len(tests) > 1 else name for name in of_test]
        check_metric(metric, names)
        return True

    def resume_or_load(self, resume: bool = True) -> None:
        """See :meth:`DefaultTrainer.resume_or_load`.

        A resumed training takes the settings of its config, such as ``SOLVER.BASE_LR``, and keeps
        the momentum; settings that it cannot take are refused. The folder's ``config.yaml`` is
        rewritten to what is trained, with batch size and schedule for this number of processes.

        Delete from ``OUTPUT_DIR`` the metrics of iterations that are trained again, files that a
        kill left half written and, with ``OVERWRITE_OUTPUT_DIR`` and without ``resume``, the
        checkpoints and evaluations of an earlier training.

        Raises:
            UserError: if the checkpoint or the training state in it cannot be used, or if its
                training cannot go on with this config.
        """
        # As built: loading a checkpoint overwrites them with those of its training.
        settings = [{**group, "params": None} for group in self.optimizer.param_groups]
        try:
            super().resume_or_load(resume)
        except TypeError as error:  # the iteration is not a number
            raise UserError(
                f"the newest checkpoint in {self.cfg.OUTPUT_DIR} does not say at which iteration "
                "it was written; delete it, or train without --resume"
            ) from error
        if self.averager is not None:
            self.averager.before_train()  # these weights may have been trained without averages
        for name, weight in self.model.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise UserError(
                    f"MODEL.WEIGHTS {self.cfg.MODEL.WEIGHTS}, or the checkpoint to resume, has NaN "
                    f"or infinite values in {name}; take an earlier one"
                )
        seed = self.resume_state.seed
        if self._seed_is_drawn and seed is not None:
            self.cfg = changed(self.cfg, {"SEED": seed})
            self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg))
        if resume and self.checkpointer.has_checkpoint():
            take_settings(self.optimizer, self.scheduler, settings, self.start_iter)
            for key, (before, now) in changes(self.resume_state.config, self.cfg).items():
                logger.info("Resumed with another %s: %s instead of %s", key, now, before)
        if self.best_keeper is not None and self.best_keeper.is_exhausted:
            logger.info("This training was stopped early; a higher TEST.PATIENCE goes on with it")
            self.max_iter = self.start_iter
        if comm.is_main_process():
            for place, writer in enumerate(self._writers):
                if type(writer) is TensorboardXWriter:  # it has opened no file yet
                    purging = TensorboardXWriter(self.cfg.OUTPUT_DIR, purge_step=self.start_iter)
                    self._writers[place] = purging
            rewrite_config(self.cfg)
            if not resume and self.cfg.OVERWRITE_OUTPUT_DIR:
                clear_output_dir(self.cfg.OUTPUT_DIR)
            keep_steps_before(self.cfg.OUTPUT_DIR, self.start_iter)
            folder = Path(self.cfg.OUTPUT_DIR)
            for place in (folder, *folder.glob("inference*/*/")):
                remove_partial_files(place)
        final = os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")
        loaded = getattr(self.checkpointer, "loaded_path", final)  # a program may have set its own
        if self.start_iter >= self.max_iter and loaded != final:
            # No step is left to write this file, which is not there, or of a shorter training.
            self.checkpointer.save("model_final", iteration=self.iter)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`DefaultTrainer.load_state_dict`; mixed precision may be switched on or off."""
        step = state_dict.get("_trainer")
        if isinstance(step, dict):
            has_scaler = isinstance(self._trainer, AMPTrainer)
            had_scaler = bool(step.get("grad_scaler"))
            if has_scaler != had_scaler:  # accumulated gradients have another scale
                for key in WAITING:
                    step["optimizer"].pop(key, None)
            if has_scaler:
                step.setdefault("grad_scaler", self._trainer.grad_scaler.state_dict())
        super().load_state_dict(state_dict)
        averaged = state_dict.get("hooks", {}).get(WeightAverager.__qualname__)
        if averaged and self.averager is None:  # the training goes on without averages
            unwrapped(self.model).load_state_dict(averaged["trained"])

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`DefaultTrainer.state_dict`; the iteration is at most the last one trained."""
        return {**super().state_dict(), "iteration": min(self.iter, self.max_iter - 1)}

    def train(self) -> dict[str, Any] | None:
        """See :meth:`DefaultTrainer.train`.

        SIGINT (Ctrl-C) and SIGTERM end the program after the current step and a checkpoint.

        Raises:
            UserError: if a loss is NaN or infinite, or images cannot be read.
            SystemExit: after a signal, with code 130 or 143.
        """
        stream = getattr(self._trainer.data_loader, "dataset", None)
        if isinstance(stream, TrainStream):
            stream.first_batch = self.start_iter
        # TorchScript (RetinaNet's losses) would compute the first step of a process with other
        # instructions than later ones, and a resumed training would differ in rounding.
        optimized = torch.jit.optimized_execution(self.cfg.MODEL.DEVICE != "cpu")
        # Detectron2 logs whatever stops a training, with its traceback.
        logging.getLogger(TrainerBase.__module__).addFilter(_without_traceback)
        with self.stopper.listening(), optimized:
            try:
                return super().train()
            except EarlyStop:
                if not (self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process()):
                    return None
                verify_results(self.cfg, self._last_eval_results)
                return self._last_eval_results
            except SystemExit:
                comm.synchronize()  # the first process to end would take the others with it
                raise

    def after_train(self) -> None:
        """See :meth:`TrainerBase.after_train`; Detectron2 counts a step where none was left."""
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    def run_step(self) -> None:
        """See :meth:`DefaultTrainer.run_step`; random numbers do not depend on earlier steps."""
        seed_everything(self.cfg.SEED, comm.get_rank(), self.iter)
        if isinstance(self.optimizer, AccumulatingOptimizer):
            self.optimizer.is_last = self.iter + 1 == self.max_iter
        try:
            with self._exchange.watching():
                super().run_step()
        except FloatingPointError as error:  # from Detectron2's RPN, or when it writes the losses
            raise self._exchange.error_of_this_process() from error

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        """See :func:`fpn_d2.data.build_train_loader`."""
        with _naming("DATALOADER.SAMPLER_TRAIN", "Unknown training sampler", "build_train_loader"):
            return build_train_loader(cfg)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> Any:
        """See :meth:`DefaultTrainer.build_lr_scheduler`."""
        with (
            _naming("SOLVER.LR_SCHEDULER_NAME", "Unknown LR scheduler", "build_lr_scheduler"),
            overridden(detectron2_solver, StepWithFixedGammaParamScheduler=_FixedGamma),
        ):
            return super().build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        """See :func:`fpn_d2.data.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """See :meth:`DefaultTrainer.test`; tests a copy prepared as ``cfg.INFERENCE`` says."""
        check_own_keys(cfg)
        tell_doubts(cfg, training=False)
        # A prepared copy, not the model that is being trained: fpn_d2/inference/prepared.py.
        has_weights = isinstance(model, nn.Module) and any(True for _ in model.parameters())
        if cfg.INFERENCE.PREPARE and has_weights and not isinstance(model, PreparedModel):
            model = _prepared(cfg, model)
        with _naming_divergence():
            return super().test(cfg, model, evaluators)

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Evaluate with test-time augmentation (``TEST.AUG``), as Detectron2's train_net does.

        The results are named ``bbox_TTA`` and so on; their files go to ``inference_TTA/``.
        """
        logger.info("Running inference with test-time augmentation ...")
        if cfg.INFERENCE.PREPARE:
            made = _prepared(cfg, model)
            model = PreparedModel(GeneralizedRCNNWithTTA(cfg, made.model), made.dtype, made.engine)
        else:
            model = GeneralizedRCNNWithTTA(cfg, model)
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, model, evaluators)
        return {f"{name}_TTA": value for name, value in results.items()}

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """See :func:`fpn_d2.evaluation.build_evaluator`; each test set has a folder of its own.

        Detectron2's train_net uses one folder for all test sets, where the proposals for the
        training set and for the validation set would overwrite each other.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, os.path.join(folder, dataset_name))


def _check_norms(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse SyncBN across processes on CPUs, and a ``TEST.PRECISE_BN`` that cannot work."""
    synced = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if synced and cfg.MODEL.DEVICE == "cpu" and comm.get_world_size() > 1:
        raise UserError("SyncBN shares statistics on GPUs alone; set the norm to naiveSyncBN")
    if cfg.TEST.PRECISE_BN.ENABLED and not get_bn_modules(model.train()):
        raise UserError(
            "TEST.PRECISE_BN.ENABLED has no effect on a model without batch norms that learn "
            "(FrozenBN and other norms keep theirs); set it to False"
        )
    if cfg.TEST.PRECISE_BN.ENABLED and cfg.SOLVER.EMA_DECAY > 0:
        raise UserError(
            "TEST.PRECISE_BN.ENABLED measures the trained weights' statistics, and with "
            "SOLVER.EMA_DECAY the averages are evaluated and saved: set one of them off"
        )


# Compiled copies of the models being trained, by model. Compiling takes up to a minute, and every
# evaluation during training comes with the same model and new weights.
_COMPILED: weakref.WeakKeyDictionary[nn.Module, PreparedModel] = weakref.WeakKeyDictionary()


def _prepared(cfg: CfgNode, model: nn.Module) -> PreparedModel:
    """Return a prepared copy of a model as it is now; only a compiled one is kept in memory."""
    if not cfg.INFERENCE.COMPILE:
        # In training mode the weights are no longer those of any file.
        return prepare_as_configured(cfg, model, keep=not model.training)
    kept = _COMPILED.get(model)
    if kept is not None and kept.dtype == PRECISIONS[cfg.INFERENCE.PRECISION]:
        plain = changed(cfg, {"INFERENCE.COMPILE": False})
        kept.load_weights(prepare_as_configured(plain, model))
        return kept
    _COMPILED[model] = prepare_as_configured(cfg, model)
    return _COMPILED[model]


class _FixedGamma(StepWithFixedGammaParamScheduler):
    """A schedule that has a value at the very end, too, which Detectron2 asks for after the last
    step, before it saves the final checkpoint; fvcore's ends in an IndexError there."""

    def __call__(self, where: float) -> float:
        """See :meth:`StepWithFixedGammaParamScheduler.__call__`."""
        return super().__call__(min(where, 1 - 2 * self.WHERE_EPSILON))


def _step(cfg: CfgNode, model: nn.Module, loader: Any, optimizer: Optimizer) -> SimpleTrainer:
    """Build the object that runs a step; in mixed precision with ``SOLVER.AMP.ENABLED``."""
    batches = cfg.SOLVER.ACCUMULATE
    stepping = AccumulatingOptimizer(optimizer, batches) if batches > 1 else optimizer
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer(model, loader, stepping)
    if cfg.MODEL.DEVICE.startswith("cuda"):
        scaler = AccumulatingScaler("cuda") if batches > 1 else None
        return AMPTrainer(model, loader, stepping, grad_scaler=scaler)
    return (CPUAutocastTrainer if cpu_has_bfloat16() else SimpleTrainer)(model, loader, stepping)


@contextlib.contextmanager
def _naming(key: str, complaint: str, method: str) -> Iterator[None]:
    """Turn Detectron2's error for an unknown value into one that names the key and ``method``."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(complaint):
            raise
        raise UserError(
            f"{key}: {error}; name one of Detectron2's ({', '.join(LOOKED_UP[key])}), or build "
            f"yours in a Trainer's {method}"
        ) from error


@contextlib.contextmanager
def _naming_divergence() -> Iterator[None]:
    """Turn the error for outputs that are not finite, of an evaluation, into a sentence."""
    try:
        yield
    except FloatingPointError as error:  # from a prepared model, or from Detectron2's RPN
        raise UserError(
            f"evaluation: {str(error).rstrip('.')}; if the training has diverged, lower "
            "SOLVER.BASE_LR and go on from an earlier checkpoint"
        ) from error


def _without_traceback(record: logging.LogRecord) -> bool:
    """Filter Detectron2's log: user errors and machine faults are logged as sentences."""
    error = record.exc_info[1] if record.exc_info else None
    sentence = error if isinstance(error, UserError) else machine_fault(error)
    if sentence is not None:
        record.msg, record.args = "Training stopped: %s", (sentence,)
        record.exc_info = record.exc_text = None
    # A FloatingPointError becomes a UserError later, and an EarlyStop is not an error.
    return not isinstance(error, (FloatingPointError, EarlyStop))
