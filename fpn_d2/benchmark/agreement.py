"""How far a prepared model's detections are from those of the model as Detectron2 has it."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from ..checkpoint import load_model
from ..data import build_test_loader
from ..evaluation import match_boxes
from ..export import prepare_model
from .detectors import PRECISIONS, head_errors

__all__ = ["benchmark_agreement", "match_detections"]

_PIXELS = 0.05


def benchmark_agreement(cfg: CfgNode, variant: str, images: int) -> dict[str, Any]:
    """Compare a trained Faster R-CNN, prepared, with itself on torchvision's pooling.

    Args:
        cfg: with ``MODEL.WEIGHTS``; its first test set is read.
        variant: "fp32", "bf16" or "fp16".
        images: how many of the test set.

    Returns:
        ``detections`` of the plain model, ``matched_share`` of them that the prepared one has too,
        one to one, of the same class within 0.05 px (and the other way round, whichever is less),
        and ``head_max_error``, of the box head's outputs on the same proposals.
    """
    plain_cfg = cfg.clone()
    plain_cfg.defrost()
    plain_cfg.MODEL.ROI_BOX_HEAD.POOLER_BACKEND = "torchvision"
    plain, ready = (
        load_model(plain_cfg),
        prepare_model(load_model(cfg), precision=PRECISIONS[variant]),
    )
    counts, matched, error = [0, 0], 0, 0.0
    for number, inputs in enumerate(build_test_loader(cfg, cfg.DATASETS.TEST[0])):
        if number >= images:
            break
        with torch.no_grad():
            expected = plain(inputs)[0]["instances"]
            error = max(error, head_errors(plain, ready, inputs)[0])
        found = ready(inputs)[0]["instances"]
        counts = [counts[0] + len(expected), counts[1] + len(found)]
        matched += match_detections(found, expected, _PIXELS)
    return {
        "variant": variant,
        "images": images,
        "detections": counts[0],
        "matched_share": round(matched / max(1, *counts), 5),
        "head_max_error": float(f"{error:.2e}"),
    }


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
