"""4-step training: RPN and Fast R-CNN that share their features (Sec. 5.2, Table 5).

    1  an RPN from the config's start
    2  a Fast R-CNN from the same start, on the proposals of step 1
    3  an RPN on step 2's bottom-up network and pyramid, which are frozen
    4  step 2's Fast R-CNN on the proposals of step 3, bottom-up network and pyramid still frozen

The paper does not say whether the pyramid's layers are shared; in the authors' code they are, and
here. Step 3's RPN head starts from random weights, step 4's box head from step 2's.
"""

import dataclasses
import os
import shlex
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode

from ..checkpoint.safe_load import read_torch
from ..config import load_config
from ..utils.errors import UserError
from ..utils.files import read_json, replace_file, write_json
from .runs import Run, Runner
from .settings import check_settings_file

__all__ = ["FourStep", "proposal_opts"]


@dataclasses.dataclass(frozen=True)
class FourStep:
    """The steps of a config with ``FOUR_STEP.RPN`` and ``FOUR_STEP.FAST_RCNN``.

    Args:
        config: the config file.
        folder: where steps 3 and 4 and the joined model go.
        runner: what trains a step.
        opts: overrides of every step, ``("KEY", "value", ...)``.
        folder_of: the folder of step 1 or 2, given the step's config file, for those who train
            the same runs for other purposes; by default they lie in ``folder``.
    """

    config: str
    folder: str
    runner: Runner
    opts: tuple[str, ...] = ()
    folder_of: Callable[[str], str] | None = None

    @property
    def weights(self) -> str:
        """The joined model, a Faster R-CNN: what the steps come to where features are shared."""
        return os.path.join(self.folder, "model_final.pth")

    def configs(self) -> tuple[str, str, bool]:
        """The config files of the RPN and the Fast R-CNN, and whether they share features.

        Raises:
            UserError: where the config names none.
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

    def runs(self) -> list[Run]:
        """The steps that this config has."""
        return [*self.separate_runs(), *(self.shared_runs() if self.configs()[2] else ())]

    def separate_runs(self) -> tuple[Run, Run]:
        """Steps 1 and 2: the two networks that share nothing."""
        rpn_config, fast_config, _ = self.configs()
        rpn = Run(rpn_config, self._folder("step1_rpn", rpn_config), self.opts)
        folder = self._folder("step2_fast_rcnn", fast_config)
        return rpn, Run(fast_config, folder, (*self.opts, *proposal_opts(rpn)))

    def shared_runs(self) -> tuple[Run, Run]:
        """Steps 3 and 4, on step 2's bottom-up network and pyramid."""
        rpn_config, fast_config, _ = self.configs()
        start = ("MODEL.WEIGHTS", self.separate_runs()[1].weights, "MODEL.FPN.FREEZE", "True")
        rpn = Run(rpn_config, os.path.join(self.folder, "step3_rpn"), (*self.opts, *start))
        folder = os.path.join(self.folder, "step4_fast_rcnn")
        return rpn, Run(fast_config, folder, (*self.opts, *start, *proposal_opts(rpn)))

    def train(self) -> dict[str, Any]:
        """Go through the steps that are not done, join the networks and evaluate the detector.

        Returns:
            as :meth:`Runner.train`, with the seconds of each step under ``steps``. Where features
            are not shared, the results are step 2's on the proposals of step 1.

        Raises:
            UserError: where a step fails.
        """
        done_before = self.result()
        if done_before is not None:
            return done_before
        runs = self.runs()
        check_settings_file(self.folder, self.runner.load_config(self._whole))
        done = []
        for i, run in enumerate(runs):
            done.append(self.runner.train(run))
            if i % 2 == 0:  # an RPN, whose proposals the next step reads
                for dataset in run.load_config().DATASETS.TRAIN:
                    self.runner.write_proposals(run, dataset)
        with self.runner.locked(self.folder):
            result = self._whole.result()
            if result is None:
                if self.configs()[2]:
                    self._join(runs)
                    done.append({**done[-1], "results": self._evaluate()})
                result = self._result(done[: len(runs)], done[-1])
                write_json(os.path.join(self.folder, "run.json"), result)
        return result

    def result(self) -> dict[str, Any] | None:
        """What the steps have come to, or None where they are not done.

        Raises:
            UserError: where they, or one of them, were trained with other settings.
        """
        result = self._whole.result()
        if result is not None:
            for run in (self._whole, *self.runs()):
                if run.result() is not None:
                    check_settings_file(run.folder, self.runner.load_config(run))
        return result

    def load_config(self) -> CfgNode:
        """The merged config of the detector; see :func:`fpn_d2.load_config`."""
        return self._whole.load_config()

    def inference_folder(self, dataset: str) -> str:
        """Where the evaluation of what the steps come to writes."""
        run = self._whole if self.configs()[2] else self.separate_runs()[1]
        return run.inference_folder(dataset)

    def command(self) -> str:
        """The line that trains the same."""
        words = ["--config-file", self.config, *self.opts]
        return shlex.join(["python", "tools/train_four_step.py", *words])

    def _result(self, steps: list[dict[str, Any]], last: dict[str, Any]) -> dict[str, Any]:
        seconds = [step["seconds"] for step in steps]
        return {
            **last,
            "config": self.config,
            "command": self.command(),
            "seconds": round(sum(seconds), 1),
            "iterations": sum(step["iterations"] for step in steps),
            "steps": seconds,
            "losses": {},  # each step has its own
        }

    def _folder(self, name: str, config: str) -> str:
        return self.folder_of(config) if self.folder_of else os.path.join(self.folder, name)

    def _join(self, runs: list[Run]) -> None:
        """Step 4's network with step 3's RPN, as one Faster R-CNN checkpoint."""
        step2, rpn, fast = (read_torch(run.weights)["model"] for run in runs[1:])
        check_frozen(step2, {"step 3": rpn, "step 4": fast})
        heads = {key: value for key, value in rpn.items() if key.startswith("proposal_generator.")}
        with replace_file(self.weights, "wb") as file:
            torch.save({"model": {**fast, **heads}}, file)

    def _evaluate(self) -> dict[str, Any]:
        run = self._whole
        self.runner.call(run, ["--eval-only"], ["MODEL.WEIGHTS", self.weights])
        return {
            dataset: read_json(os.path.join(run.inference_folder(dataset), "results.json"))
            for dataset in run.load_config().DATASETS.TEST
        }

    @property
    def _whole(self) -> Run:
        return Run(self.config, self.folder, self.opts)


def proposal_opts(rpn: Run) -> tuple[str, ...]:
    """The overrides under which a Fast R-CNN reads the proposals of a finished RPN."""
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
    """Make sure that the shared layers are byte-identical to what they started from.

    Args:
        start: the weights of step 2.
        steps: the weights of the steps that were to leave the backbone alone, by name.

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
