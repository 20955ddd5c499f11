"""4-step training: an RPN and a Fast R-CNN that share their features (Sec. 5.2, Table 5).

    1  an RPN from the config's start
    2  a Fast R-CNN from the same start, on the proposals of step 1
    3  an RPN on step 2's bottom-up network and pyramid, which are frozen
    4  step 2's Fast R-CNN on the proposals of step 3, bottom-up network and pyramid still frozen

The paper does not say whether the pyramid's layers are shared. They are in the authors' code, and
here. Step 3's RPN head starts from random weights, step 4's box head from step 2's.
"""

import dataclasses
import os
import shlex
from typing import Any

import torch

from ..checkpoint.checkpointer import CLASS_NAMES
from ..checkpoint.safe_load import read_torch
from ..config import load_config
from ..utils.errors import UserError
from ..utils.files import explain_disk_errors, remove_partial_files, replace_file, write_json
from .runs import Run, Runner, check_settings, read_evaluations


@dataclasses.dataclass(frozen=True)
class FourStep(Run):
    """The training of a config that has ``FOUR_STEP.RPN`` and ``FOUR_STEP.FAST_RCNN``.

    Where features are shared, its ``weights`` are the joined model, a Faster R-CNN.

    Args:
        config: the config file.
        folder: the folder of steps 3 and 4 and of the joined model.
        opts: overrides of every step, ``("KEY", "value", ...)``.
        separate_folders: the folders of steps 1 and 2, for callers that train the same runs for
            other purposes; if empty, these lie in ``folder``.
    """

    separate_folders: tuple[str, ...] = ()

    def configs(self) -> tuple[str, str, bool]:
        """Return the config files of the RPN and the Fast R-CNN, and whether they share features.

        Raises:
            UserError: if the config names none.
        """
        keys = load_config(self.config, self.opts).FOUR_STEP
        if not (keys.RPN and keys.FAST_RCNN):
            raise UserError(
                f"{self.config} is not trained in steps: it has no FOUR_STEP.RPN and "
                "FOUR_STEP.FAST_RCNN; take one of configs/Feature-Sharing/"
            )
        here = os.path.dirname(self.config)
        paths = [os.path.normpath(os.path.join(here, p)) for p in (keys.RPN, keys.FAST_RCNN)]
        return paths[0], paths[1], keys.SHARED

    def separate_runs(self) -> list[Run]:
        """Return steps 1 and 2, two networks that share nothing."""
        rpn_config, fast_config, _ = self.configs()
        own = [os.path.join(self.folder, name) for name in ("step1_rpn", "step2_fast_rcnn")]
        rpn_folder, fast_folder = self.separate_folders or own
        rpn = Run(rpn_config, rpn_folder, self.opts)
        return [rpn, Run(fast_config, fast_folder, (*self.opts, *proposal_opts(rpn)))]

    def shared_runs(self) -> list[Run]:
        """Return steps 3 and 4, on step 2's bottom-up network and pyramid."""
        rpn_config, fast_config, _ = self.configs()
        start = ("MODEL.WEIGHTS", self.separate_runs()[1].weights, "MODEL.FPN.FREEZE", "True")
        rpn = Run(rpn_config, os.path.join(self.folder, "step3_rpn"), (*self.opts, *start))
        folder = os.path.join(self.folder, "step4_fast_rcnn")
        return [rpn, Run(fast_config, folder, (*self.opts, *start, *proposal_opts(rpn)))]

    def steps(self) -> list[Run]:
        """Return the steps that this config has: two, or four where features are shared."""
        return [*self.separate_runs(), *(self.shared_runs() if self.configs()[2] else ())]

    def networks(self) -> list[Run]:
        """See :meth:`Run.networks`: the joined network, or the two of steps 1 and 2."""
        return [self] if self.configs()[2] else self.separate_runs()

    def inference_folder(self, dataset: str) -> str:
        """See :meth:`Run.inference_folder`; without sharing, the evaluation is step 2's."""
        if self.configs()[2]:
            return super().inference_folder(dataset)
        return self.separate_runs()[1].inference_folder(dataset)

    def command(self) -> str:
        """See :meth:`Run.command`."""
        words = ["--config-file", self.config, *self.opts]
        return shlex.join(["python", "tools/train_four_step.py", *words])

    def train(self, runner: Runner) -> dict[str, Any]:
        """Train the steps that are not done, join the networks and evaluate the detector.

        Returns:
            a result like :meth:`Runner.train`'s, with the seconds of each step under ``steps``.
            Without sharing, the evaluation is step 2's on the proposals of step 1.

        Raises:
            UserError: if a step fails.
        """
        result = runner.result(self)
        if result is not None:
            return result
        steps = self.steps()  # Before anything is written: it refuses other configs.
        check_settings(self.folder, runner.load_config(self))
        remove_partial_files(self.folder)  # no step trains in it
        # RPNs and the Fast R-CNNs that read their proposals take turns.
        done = [
            runner.train(run) if i % 2 else runner.train_rpn(run) for i, run in enumerate(steps)
        ]
        with runner.locked(self.folder):
            result = self.result()
            if result is None:
                seconds = [step["seconds"] for step in done]
                result = {
                    **done[-1],
                    "config": self.config,
                    "command": self.command(),
                    "seconds": round(sum(seconds), 1),
                    "iterations": sum(step["iterations"] for step in done),
                    "steps": seconds,
                    "losses": {},  # Each step has its own.
                }
                if self.configs()[2]:
                    self._join(steps)
                    runner.call(self, ["--eval-only"], ["MODEL.WEIGHTS", self.weights])
                    result["results"] = read_evaluations(self, self.load_config())
                write_json(os.path.join(self.folder, "run.json"), result)
        return result

    def _join(self, steps: list[Run]) -> None:
        """Write step 4's network with step 3's RPN as one Faster R-CNN checkpoint."""
        *_, last = checkpoints = [read_torch(run.weights) for run in steps[1:]]
        step2, rpn, fast = (checkpoint["model"] for checkpoint in checkpoints)
        check_frozen(step2, {"step 3": rpn, "step 4": fast})
        heads = {key: value for key, value in rpn.items() if key.startswith("proposal_generator.")}
        names = {key: last[key] for key in (CLASS_NAMES,) if key in last}
        remedy = "make room there and start again"
        with explain_disk_errors(self.weights, remedy), replace_file(self.weights, "wb") as file:
            torch.save({"model": {**fast, **heads}, **names}, file)


def proposal_opts(rpn: Run) -> tuple[str, ...]:
    """Return the overrides that make a Fast R-CNN read the proposals of a finished RPN."""
    cfg = rpn.load_config()
    words = []
    for split in ("TRAIN", "TEST"):
        files = [
            os.path.join(rpn.inference_folder(name), "box_proposals.pkl")
            for name in cfg.DATASETS[split]
        ]
        words += [f"DATASETS.PROPOSAL_FILES_{split}", str(files)]
    return tuple(words)


def check_frozen(start: dict[str, Any], steps: dict[str, dict[str, Any]]) -> None:
    """Make sure that the shared layers exactly equal those they started from.

    Args:
        start: the weights of step 2.
        steps: by name, the weights of the steps that had to leave the backbone alone.

    Raises:
        UserError: naming the step and a tensor that has changed.
    """
    shared = {key: value for key, value in start.items() if key.startswith("backbone.")}
    for name, weights in steps.items():
        for key, value in shared.items():
            if key not in weights or not torch.equal(weights[key], value):
                raise UserError(
                    f"{name} has changed the shared layer {key}, which MODEL.FPN.FREEZE was to "
                    "keep; delete the folders of steps 3 and 4 and train them again"
                )
