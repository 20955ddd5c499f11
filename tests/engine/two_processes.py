"""Run by tests in two processes: steps of every ablation, and steps that are counted or spoilt."""

import argparse
import functools
import os
import signal
import sys
import traceback

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import distributed

from fpn_d2 import UserError, load_config
from fpn_d2.engine import Trainer, launch

VARIANTS = {
    "both paths": ["RPN/rpn_R_18_FPN"],
    "no top-down": ["RPN/rpn_R_18_bottom_up"],
    "no lateral": ["RPN/rpn_R_18_top_down"],
    "P2 only": ["RPN/rpn_R_18_P2"],
    "P2 only, no top-down": ["RPN/rpn_R_18_P2", "MODEL.FPN.TOP_DOWN", "False"],
    "P2 only, no lateral": ["RPN/rpn_R_18_P2", "MODEL.FPN.LATERAL", "False"],
    "a head for each level": ["RPN/rpn_R_18_FPN", "MODEL.RPN.SHARED_HEAD", "False"],
    "C4": ["Faster-RCNN/faster_rcnn_R_18_C4"],
    "C5": ["Faster-RCNN/faster_rcnn_R_18_C5"],
    "Faster R-CNN": ["Faster-RCNN/faster_rcnn_R_18_FPN"],
    "RetinaNet": ["RetinaNet/retinanet_R_18_FPN"],
}


class TwoSteps(Trainer):
    """A trainer without evaluation and checkpoints: only its steps are tested."""

    def build_hooks(self) -> list:
        return []


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    ablations(args)
    evaluate(args)
    spoil(args)
    count(args)
    stop(args)


def ablations(args: argparse.Namespace) -> None:
    for name, (row, *opts) in VARIANTS.items():
        cfg = load_config(os.path.join(args.configs, f"{row}.yaml"), [*args.opts, *opts])
        trainer = TwoSteps(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        # DDP averages the gradients, so both processes must hold the same weights
        same = all(torch.equal(weights, other) for other in comm.all_gather(weights))
        if comm.is_main_process():
            print(f"{name}: {trainer.iter} iterations, weights {'same' if same else 'DIFFER'}")


def evaluate(args: argparse.Namespace) -> None:
    """All processes evaluate the statistics that the first one saves."""
    path = os.path.join(args.configs, "RPN/rpn_R_18_FPN.yaml")
    trainer = TwoSteps(load_config(path, [*args.opts, "DATASETS.TEST", "()"]))
    trainer.train()
    trainer._evaluate()
    means = [v for name, v in trainer.model.named_buffers() if name.endswith("running_mean")]
    one, two = comm.all_gather(torch.cat(means))
    if comm.is_main_process():
        print(f"evaluated: {len(means)} norms, {'same' if torch.equal(one, two) else 'DIFFER'}")


class CountCalls(HookBase):
    """Counts the collective calls of each step and of its hooks, but not DistributedDataParallel's.

    Attributes:
        steps: for each step the names of the calls; Detectron2's own, which gathers the metrics,
            is called ``metrics``.
    """

    NAMES = (
        *("all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_gather_object"),
        *("all_reduce", "all_to_all", "all_to_all_single", "barrier", "broadcast"),
        *("broadcast_object_list", "gather", "gather_object", "monitored_barrier", "recv"),
        *("reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "send"),
        *("scatter_object_list",),
    )

    def __init__(self):
        self.steps: list[list[str]] = []
        for name in self.NAMES:
            setattr(distributed, name, self._counted(name, getattr(distributed, name)))

    def _counted(self, name, function):
        def call(*args, **kwargs):
            stack = traceback.walk_stack(sys._getframe(1))
            callers = [frame.f_code.co_name for frame, _ in stack]
            if self.steps:
                self.steps[-1].append("metrics" if "write_metrics" in callers else name)
            return function(*args, **kwargs)

        return call

    def before_step(self):
        self.steps.append([])


def count(args: argparse.Namespace) -> None:
    """Count the calls of three steps with all hooks, for a network with running averages."""
    opts = ["SOLVER.MAX_ITER", "4", "DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", "100"]
    path = os.path.join(args.configs, "RetinaNet/retinanet_R_18_FPN.yaml")
    cfg = load_config(path, [*args.opts, *opts])
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    calls = CountCalls()
    trainer._hooks.insert(0, calls)
    calls.trainer = trainer
    trainer.train()
    if comm.is_main_process():
        for step in calls.steps[:3]:  # the fourth also has the calls at the end
            print("calls:", *sorted(step))
        print("averages:", len(trainer.resume_state.averages))


def spoil(args: argparse.Namespace) -> None:
    """Train with a loss that is NaN in the second process alone."""
    cfg = load_config(os.path.join(args.configs, "RPN/rpn_R_18_FPN.yaml"), args.opts)
    trainer = TwoSteps(cfg)
    model = trainer.model.module
    forward = model.forward
    if comm.get_rank() == 1:
        model.forward = lambda batch: {k: v * float("nan") for k, v in forward(batch).items()}
    before = [p.detach().clone() for p in model.parameters()]
    try:
        trainer.train()
    except UserError as error:
        same = all(map(torch.equal, before, model.parameters()))
        text = f"process {comm.get_rank()}: weights {'same' if same else 'DIFFER'}, {error}"
        texts = comm.all_gather(text)
        if comm.is_main_process():
            print("\n".join(texts))


class OwnStep(Trainer):
    """A trainer whose step is written anew, as in many projects; process 1 gets a SIGTERM in it."""

    def run_step(self) -> None:
        if comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        losses = self.model(next(self._trainer._data_loader_iter))
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()


def stop(args: argparse.Namespace) -> None:
    opts = ["SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()", "OVERWRITE_OUTPUT_DIR", "True"]
    cfg = load_config(os.path.join(args.configs, "RPN/rpn_R_18_FPN.yaml"), [*args.opts, *opts])
    trainer = OwnStep(cfg)
    trainer.resume_or_load(resume=False)
    try:
        trainer.train()
    except SystemExit as error:
        texts = comm.all_gather(f"stopped with {error.code} after iteration {trainer.iter}")
        if comm.is_main_process():
            print("\n".join(texts))


if __name__ == "__main__":
    # Forked processes have this one's imports, which would take each of them five seconds.
    start = torch.multiprocessing.start_processes
    torch.multiprocessing.start_processes = functools.partial(start, start_method="fork")
    launch(
        main,
        argparse.Namespace(
            num_gpus=2,
            num_machines=1,
            machine_rank=0,
            dist_url="auto",
            configs=sys.argv[1],
            opts=sys.argv[2:],
        ),
    )
