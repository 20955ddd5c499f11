"""How far a prepared model's detections are from those of the model as Detectron2 has it."""

import contextlib
import io
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from ..checkpoint import load_model
from ..config import load_config
from ..data import build_test_loader
from ..evaluation import ResultsWritingCOCOEvaluator, match_boxes
from ..inference import prepare_model
from ..utils.errors import UserError
from .detectors import call_without_grad, head_errors
from .measure import compare, is_timed_here, row
from .precisions import PRECISIONS, variants_of

__all__ = ["benchmark_agreement", "match_detections"]

_PIXELS = 0.05


def benchmark_agreement(
    config: str | os.PathLike,
    weights: str,
    device: str,
    rounds: int,
    images: int = 100,
    opts: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Compare a trained Faster R-CNN, prepared, with itself as Detectron2 runs it.

    Args:
        config: its config; its first test set is read.
        weights: its checkpoint.
        device: "cpu" or "cuda".
        rounds: how often the images are timed.
        images: how many of the test set.
        opts: more of the config, ``[KEY, value, ...]``.

    Returns:
        a row for each precision (:func:`fpn_d2.benchmark.measure.row`) with seconds for all images
        and, beyond a row's keys, ``images``; ``detections`` of the plain model, ``matched_share``
        of them that the prepared one has too, one to one, of the same class within 0.05 px (and the
        other way round, whichever is less; None where there are none); ``head_max_error``, of the
        box head's outputs on the same proposals; ``AP`` and ``baseline_AP`` on these images, None
        where there is none. The plain model is this package's, unprepared and with torchvision's
        pooling, which gives Detectron2's bits.

    Raises:
        UserError: for a config of something else, and where the config, the weights or the test
            set cannot be read.
    """
    # Benchmarks run in processes that may have none of their own.
    opts = [*opts, "DATALOADER.NUM_WORKERS", "0"]
    cfg = load_config(config, [*opts, "MODEL.DEVICE", device, "MODEL.WEIGHTS", weights])
    if (
        cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN"
        or cfg.MODEL.LOAD_PROPOSALS
        or "C4" in cfg.MODEL.ROI_HEADS.NAME
    ):
        raise UserError(
            f"{config} is no Faster R-CNN with a box head, whose outputs are compared; give one "
            "such as configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml"
        )
    plain = load_model(_with_torchvision_pooling(cfg))
    model = load_model(cfg)
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0])
    batches = list(itertools.islice(loader, images))
    rows = []
    for variant in variants_of(device):
        ready = prepare_model(model, precision=PRECISIONS[variant])
        calls = {"ours": _pass(ready, batches), "detectron2": _pass(plain, batches)}
        timings = compare(calls, rounds, device, ["ours"])
        if is_timed_here(memory_kept=False):  # whose rows are taken
            agreement = _compare_detections(cfg, plain, ready, batches)
            share = agreement.pop("share")
            pair = timings["ours"], "detectron2", timings["detectron2"]
            rows.append(row("agreement", variant, *pair, share, **agreement))
    return rows


def _with_torchvision_pooling(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.POOLER_BACKEND = "torchvision"
    return cfg


def _pass(model: nn.Module, batches: list[list[dict]]) -> Callable[[], None]:
    calls = [call_without_grad(model, inputs) for inputs in batches]

    def run() -> None:
        for call in calls:
            call()

    return run


def _compare_detections(
    cfg: CfgNode, plain: nn.Module, ready: nn.Module, batches: list[list[dict]]
) -> dict[str, Any]:
    name = cfg.DATASETS.TEST[0]
    # without a folder, which would be that of the user's own evaluation
    evaluators = [ResultsWritingCOCOEvaluator(name, output_dir=None) for _ in range(2)]
    counts, matched, error, share = [0, 0], 0, 0.0, 0.0
    for evaluator in evaluators:
        evaluator.reset()
    for inputs in batches:
        with torch.no_grad():
            outputs = [plain(inputs), ready(inputs)]
            errors = head_errors(plain, ready, inputs)
        error, share = max(error, errors[0]), max(share, errors[1])
        for evaluator, output in zip(evaluators, outputs, strict=True):
            evaluator.process(inputs, output)
        expected, found = (output[0]["instances"] for output in outputs)
        counts = [counts[0] + len(expected), counts[1] + len(found)]
        matched += match_detections(found, expected, _PIXELS)
    identities = [record["image_id"] for inputs in batches for record in inputs]
    with contextlib.redirect_stdout(io.StringIO()):  # COCO's tables
        expected, found = (e.evaluate(identities).get("bbox", {}).get("AP") for e in evaluators)
    return {
        "share": share,
        "images": len(batches),
        "detections": counts[0],
        "matched_share": round(matched / max(counts), 5) if any(counts) else None,
        "head_max_error": float(f"{error:.2e}"),
        "AP": _rounded(found),
        "baseline_AP": _rounded(expected),
    }


def _rounded(ap: float | None) -> float | None:
    """None for an AP that there is not, of images without objects or a model without detections."""
    return None if ap is None or math.isnan(ap) else round(ap, 2)


def match_detections(found: Instances, expected: Instances, pixels: float) -> int:
    """The number of pairs of detections, one to one, of one class and close to each other.

    Args:
        found, expected: with ``pred_boxes`` and ``pred_classes``, best first.
        pixels: the largest difference of any coordinate.
    """
    pairs, _ = match_boxes(
        found.pred_boxes.tensor,
        expected.pred_boxes.tensor,
        found.pred_classes,
        expected.pred_classes,
        pixels,
    )
    return len(pairs)
