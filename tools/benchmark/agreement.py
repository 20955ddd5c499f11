"""How close a prepared model's detections are to those of the same model as Detectron2 runs it."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from fpn_d2.checkpoint import load_model
from fpn_d2.config import changed, load_config
from fpn_d2.data import build_test_loader, check_names
from fpn_d2.evaluation import ResultsWritingCOCOEvaluator
from fpn_d2.evaluation.evaluators import quiet_pycocotools
from fpn_d2.evaluation.matching import match_detections
from fpn_d2.inference import prepare_as_configured
from fpn_d2.utils.errors import UserError

from .contest import Comparison, Comparisons, make_row
from .differences import head_errors
from .precisions import choices_of, prepared_variants_of

_PIXELS = 0.05


def benchmark_agreement(
    device: str, config: str | Path, weights: str, images: int = 100, opts: Sequence[str] = ()
) -> Comparisons:
    """Compare a trained Faster R-CNN, prepared, with itself as Detectron2 runs it.

    All images are timed. Besides the usual keys a row has ``images``; ``detections``, the plain
    model's; ``matched_share``, the share of them that the prepared model has too (one to one, of
    the same class, within 0.05 px) or the other way round, whichever is less, None without
    detections; ``head_max_error``, the largest difference of the box head's outputs on the same
    proposals; ``AP`` and ``baseline_AP`` on these images, None where there is none. The plain model
    is this package's, unprepared and with torchvision's pooling, which gives Detectron2's bits.

    Args:
        device: "cpu" or "cuda".
        config, weights: the model's config, whose first test set is read, and its checkpoint.
        images: how many images of the test set are read.
        opts: overrides of the config, ``[KEY, value, ...]``.

    Raises:
        UserError: see :func:`check_agreement`; and if the test set cannot be read.
    """
    # Starting workers would take longer than reading so few images.
    cfg = _read_config(device, config, weights, [*opts, "DATALOADER.NUM_WORKERS", "0"])
    plain = load_model(changed(cfg, {"MODEL.ROI_BOX_HEAD.POOLER_BACKEND": "torchvision"}))
    model = load_model(cfg)
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0])
    batches = list(itertools.islice(loader, images))
    rows = []
    for variant in prepared_variants_of(device):
        choices = choices_of(variant)
        keys = {f"INFERENCE.{key.upper()}": choice for key, choice in choices.items()}
        ready = prepare_as_configured(changed(cfg, keys), model)
        models = {"ours": ready, "detectron2": plain}
        calls = {
            name: torch.no_grad()(lambda model=model: [model(inputs) for inputs in batches])
            for name, model in models.items()
        }
        timings = yield Comparison(calls, kept=["ours"])
        if timings:
            error, more = _compare_detections(cfg, plain, ready, batches)
            rows.append(make_row("agreement", variant, timings, error, **more))
    return rows


def check_agreement(config: str | Path, weights: str) -> None:
    """Refuse what :func:`benchmark_agreement` cannot compare, in a second or two.

    Raises:
        UserError: if the config is of another kind of model or names no test set, or the config or
            the weights cannot be read.
    """
    cfg = _read_config("cpu", config, weights)
    check_names(cfg.DATASETS.TEST[:1], "DATASETS.TEST")
    load_model(cfg)


def _read_config(
    device: str, config: str | Path, weights: str, opts: Sequence[str] = ()
) -> CfgNode:
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
    return cfg


def _compare_detections(
    cfg: CfgNode, plain: nn.Module, ready: nn.Module, batches: list[list[dict]]
) -> tuple[float, dict[str, Any]]:
    """Return the box head's largest difference as a share, and the task's own keys."""
    name = cfg.DATASETS.TEST[0]
    # Without a folder: it would be that of the user's own evaluation.
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
    image_ids = [record["image_id"] for inputs in batches for record in inputs]
    with quiet_pycocotools():
        expected, found = (e.evaluate(image_ids).get("bbox", {}).get("AP") for e in evaluators)
    return share, {
        "images": len(batches),
        "detections": counts[0],
        "matched_share": round(matched / max(counts), 5) if any(counts) else None,
        "head_max_error": float(f"{error:.2e}"),
        "AP": _rounded(found),
        "baseline_AP": _rounded(expected),
    }


def _rounded(ap: float | None) -> float | None:
    """Round an AP; None if there is none, for want of objects in the images or of detections."""
    return None if ap is None or math.isnan(ap) else round(ap, 2)
