"""The running time of detectors, measured side by side (Sec. 5.2: 0.148 s against 0.32 s).

Detectors take turns, one image at a time, so that whatever else the machine does slows all of them
alike.
"""

import functools
import itertools
import os
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from torch import nn

from ..checkpoint import load_model
from ..config import changed
from ..data import build_test_loader
from ..utils.files import write_json
from ..utils.modules import settle_norms
from ..utils.timing import time_in_turn
from .reproduction import Reproduction
from .runs import Run, provenance
from .tables import Row, Table

_IMAGES = 8
_ROUNDS = 3

Detector = Callable[[list[dict[str, Any]]], Any]


def time_rows(
    reproduction: Reproduction, table: Table, rows: Mapping[str, Row], say: Callable[[str], None]
) -> None:
    """Time rows side by side, and write a ``run.json`` into the timing folder of each.

    A trained row is timed with its weights, any other with random ones, which give about the same
    number of proposals but another number of detections; ``trained`` says which. Each row sees the
    images of its own test set as its own config resizes them. ``say`` prints a line.
    """
    detectors, trained, configs, images = {}, {}, {}, {}
    for name, row in rows.items():
        detectors[name], trained[name], configs[name] = _build(reproduction, row)
        images[name] = _images(configs[name])
    count = min(map(len, images.values()))
    calls = {
        (number, name): functools.partial(detector, [images[name][number]])
        for number in range(count)
        for name, detector in detectors.items()
    }
    with torch.no_grad():
        seconds = time_in_turn(calls, _ROUNDS)
    for name, row in rows.items():
        values = [value for number in range(count) for value in seconds[number, name]]
        median = statistics.median(values)
        say(f"table {table.table} ({name}) {row.name}: {median:.3f} s an image")
        timing = {"seconds": median, "fastest": min(values), "slowest": max(values)}
        folder = reproduction.timing_folder(row)
        os.makedirs(folder, exist_ok=True)
        write_json(
            os.path.join(folder, "run.json"),
            {
                "seconds": round(sum(values), 1),
                "iterations": len(values),
                "results": {
                    configs[name].DATASETS.TEST[0]: {"timing": {**timing, "trained": trained[name]}}
                },
                "losses": {},
                **provenance(),
            },
        )


def _build(reproduction: Reproduction, row: Row) -> tuple[Detector, bool, CfgNode]:
    """Return a row's detector, whether all of its weights are trained, and its config.

    The detector has the weights of the first seed that is trained here.
    """
    seed = reproduction.timed_seed(row)
    runs = reproduction.networks(row, seed or 0)
    models = [_model(run) for run in runs]
    detector = _two_networks(*models) if len(models) == 2 else models[0].inference
    cfg = runs[0].load_config()
    if seed is None:
        pairs = zip(models, runs, strict=True)
        random = nn.ModuleList(model for model, run in pairs if not os.path.isfile(run.weights))
        settle_norms(random, lambda: detector(_images(cfg)[:1]))
    return detector, seed is not None, cfg


def _model(run: Run) -> nn.Module:
    cfg = run.load_config()
    if os.path.isfile(run.weights):
        return load_model(changed(cfg, {"MODEL.WEIGHTS": run.weights}))
    seed_all_rng(0)
    return build_model(cfg).eval()


def _two_networks(rpn: nn.Module, fast_rcnn: nn.Module) -> Detector:
    """Join an RPN and a Fast R-CNN that computes its own features for the RPN's proposals."""

    def detect(inputs: list[dict[str, Any]]) -> Any:
        images = fast_rcnn.preprocess_image(inputs)
        proposals, _ = rpn.proposal_generator(images, rpn.backbone(images.tensor), None)
        # A Fast R-CNN is tested on 1000 proposals (Sec. 5.2).
        pairs = zip(inputs, proposals, strict=True)
        return fast_rcnn.inference([{**image, "proposals": found[:1000]} for image, found in pairs])

    return detect


def _images(cfg: CfgNode) -> list[dict[str, Any]]:
    """Return the first images of the test set as the network gets them."""
    cfg = changed(cfg, {"MODEL.LOAD_PROPOSALS": False, "DATALOADER.NUM_WORKERS": 0})
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0])
    return list(itertools.islice(itertools.chain.from_iterable(loader), _IMAGES))
