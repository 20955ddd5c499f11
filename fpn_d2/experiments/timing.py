"""The running time of detectors, measured side by side (Sec. 5.2: 0.148 s against 0.32 s).

One image at a time, the detectors in turn on each image, so that whatever else the machine does
meets all of them alike.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from torch import nn

from ..checkpoint import load_model
from ..data import build_test_loader
from ..utils.files import write_json
from .four_step import FourStep
from .provenance import describe_machine, describe_versions, git_commit
from .reproduction import Reproduction
from .runs import Run
from .tables import Row, Table

__all__ = ["time_rows"]

_IMAGES = 8
_ROUNDS = 3

Detector = Callable[[list[dict[str, Any]]], Any]


def time_rows(
    reproduction: Reproduction, table: Table, rows: Mapping[str, Row], say: Callable[[str], None]
) -> None:
    """Time rows side by side, and leave a ``run.json`` in the folder of each.

    A row that has been trained is timed with its weights, another with random ones, whose number
    of proposals is the same and whose number of detections is not; ``trained`` says which.

    Args:
        reproduction: the scale, the data set and the runs.
        table: the table.
        rows: the rows, by name.
        say: prints a line.
    """
    detectors, trained, cfg = {}, {}, None
    for name, row in rows.items():
        detectors[name], trained[name], cfg = _build(reproduction, row)
    inputs = _inputs(cfg)
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    for round_number in range(_ROUNDS + 1):
        for image in inputs:
            for name, detector in detectors.items():
                start = time.perf_counter()
                with torch.no_grad():
                    detector([image])
                if cfg.MODEL.DEVICE != "cpu":
                    torch.cuda.synchronize()
                if round_number:  # the first one warms up
                    seconds[name].append(time.perf_counter() - start)
    for name, row in rows.items():
        values = seconds[name]
        say(f"table {table.table} ({name}) {row.name}: {statistics.median(values):.3f} s an image")
        folder = reproduction.timing_folder(row)
        os.makedirs(folder, exist_ok=True)
        results = {
            "seconds": statistics.median(values),
            "fastest": min(values),
            "slowest": max(values),
        }
        write_json(
            os.path.join(folder, "run.json"),
            {
                "seconds": round(sum(values), 1),
                "iterations": len(values),
                "results": {cfg.DATASETS.TEST[0]: {"timing": {**results, **trained[name]}}},
                "losses": {},
                "commit": git_commit(),
                "machine": describe_machine(),
                "versions": describe_versions(),
            },
        )


def _build(reproduction: Reproduction, row: Row) -> tuple[Detector, dict[str, Any], CfgNode]:
    trainable = reproduction.trainable(row, 0)
    if isinstance(trainable, FourStep) and not trainable.configs()[2]:
        (rpn, has_rpn), (fast, has_fast) = map(_model, trainable.separate_runs())
        cfg = trainable.separate_runs()[0].load_config()
        return _two_networks(rpn, fast), {"trained": has_rpn and has_fast}, cfg
    model, has_weights = _model(trainable)
    return model.inference, {"trained": has_weights}, trainable.load_config()


def _model(run: Run | FourStep) -> tuple[nn.Module, bool]:
    cfg = run.load_config()
    if os.path.isfile(run.weights):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = run.weights
        return load_model(cfg), True
    seed_all_rng(0)
    return build_model(cfg).eval(), False


def _two_networks(rpn: nn.Module, fast_rcnn: nn.Module) -> Detector:
    """An RPN, and a Fast R-CNN that computes features of its own for the RPN's proposals."""

    def detect(inputs: list[dict[str, Any]]) -> Any:
        images = fast_rcnn.preprocess_image(inputs)
        proposals, _ = rpn.proposal_generator(images, rpn.backbone(images.tensor), None)
        # A Fast R-CNN is tested on 1000 proposals (Sec. 5.2).
        pairs = zip(inputs, proposals, strict=True)
        return fast_rcnn.inference([{**image, "proposals": found[:1000]} for image, found in pairs])

    return detect


def _inputs(cfg: CfgNode) -> list[dict[str, Any]]:
    """The first images of the test set, as the network gets them."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.LOAD_PROPOSALS = False
    cfg.DATALOADER.NUM_WORKERS = 0
    images = []
    for batch in build_test_loader(cfg, cfg.DATASETS.TEST[0]):
        images += batch
        if len(images) >= _IMAGES:
            break
    return images[:_IMAGES]
