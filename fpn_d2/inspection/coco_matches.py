"""pycocotools' matches of boxes, and the curves and thresholds that follow from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import COCOeval_opt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from ..evaluation.evaluators import quiet_pycocotools

RECALLS = Params("bbox").recThrs  # 0, 0.01 .. 1


def renumbered(truth: COCO) -> COCO:
    """Return a copy with annotations numbered from 1, objects before crowds: pycocotools takes a
    match with number 0 for no match, and two annotations of one number for one."""
    known = [
        {**a, "iscrowd": int(bool(a.get("iscrowd", 0)))}
        for a in truth.dataset.get("annotations", [])
        if a.get("image_id") in truth.imgs and a.get("category_id") in truth.cats
    ]
    known.sort(key=lambda annotation: annotation["iscrowd"])
    for number, annotation in enumerate(known, start=1):
        annotation["id"] = number
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    copy = COCO()
    copy.dataset = {**truth.dataset, "annotations": known}
    with quiet_pycocotools():
        copy.createIndex()
    return copy


def match_boxes_once(
    truth: COCO, found: COCO, iou: float
) -> tuple[np.ndarray, np.ndarray, dict[tuple[Any, Any], Any]]:
    """Match the detections of each image and class with its objects, best first.

    Args:
        truth, found: G annotations and D detections, both numbered from 1.
        iou: the least IoU of a match.

    Returns:
        (D,) the index of the annotation that each detection matches, or -1; (D,) bool, which
        detections do not count, since they match a crowd region or are behind the best 100; and
        all IoUs by image and category, as pycocotools has them.
    """
    matched = np.full(len(found.anns), -1, dtype=np.int64)
    left_out = np.ones(len(matched), dtype=bool)
    with quiet_pycocotools():
        evaluation = _evaluation(COCOeval, truth, found, [[0, 1e10]])
        evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
    for entry in filter(None, evaluation.evalImgs):
        which = np.array(entry["dtIds"], dtype=np.int64) - 1
        matched[which] = entry["dtMatches"][0].astype(np.int64) - 1
        left_out[which] = entry["dtIgnore"][0]
    matched[left_out] = -1
    return matched, left_out, evaluation.ious


def precisions_by_area(
    truth: COCO, found: COCO, areas: list[list[float]], ious: Mapping[tuple[Any, Any], Any]
) -> np.ndarray:
    """Evaluate boxes as COCO does, with at most 100 detections of an image and class.

    Args:
        truth, found: annotations and detections, selected by their ``area``.
        areas: the A ranges of areas, both ends included.
        ious: see :func:`match_boxes_once`.

    Returns:
        precision (10 IoUs, 101 recalls, K classes, A), -1 where a class has no objects.
    """
    with quiet_pycocotools():
        evaluation = _evaluation(COCOeval_opt, truth, found, areas)
        evaluation.computeIoU = lambda image, category: ious[image, category]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, :, -1]


def _evaluation(
    kind: type[COCOeval], truth: COCO, found: COCO, areas: list[list[float]]
) -> COCOeval:
    evaluation = kind(truth, found, "bbox")
    params = evaluation.params
    params.areaRng, params.areaRngLbl = areas, [str(i) for i in range(len(areas))]
    params.maxDets = [100]
    return evaluation


def mean_ap(precision: np.ndarray) -> float | None:
    """Return the mean in percent without pycocotools' -1 (no objects); None if nothing is left."""
    there = precision[precision > -1]
    return 100 * float(there.mean()) if there.size else None


def interpolated(hits: np.ndarray, objects: int) -> np.ndarray:
    """Return COCO's precisions at the 101 recalls, for detections in descending order of score."""
    precisions = np.zeros(len(RECALLS))
    if objects and len(hits):
        found = np.cumsum(hits)
        best = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
        at = np.searchsorted(found / objects, RECALLS, side="left")
        precisions[at < len(hits)] = best[at[at < len(hits)]]
    return precisions


def grouped(index: np.ndarray, number: int) -> list[np.ndarray]:
    """Return the positions in ``index`` of each of 0 .. number - 1, ascending."""
    order = np.argsort(index, kind="stable")
    return np.split(order, np.searchsorted(index[order], np.arange(1, number)))


def best_f1(scores: np.ndarray, hits: np.ndarray, objects: int) -> dict[str, float | None]:
    """Find the threshold of a class at which F1, 2 TP / (detections + objects), is largest.

    The threshold lies halfway between the lowest score that is kept and the next lower one, or 0,
    so that rounding moves no detection across it.

    Args:
        scores: the scores of the class's detections, descending.
        hits: whether each of them found an object.
        objects: the number of objects of the class.

    Returns:
        ``threshold``, ``f1``, ``precision`` and ``recall``, the last three 0 to 1; all None if no
        detection found an object.
    """
    found = np.cumsum(hits)
    if not len(found) or not found[-1]:
        return dict.fromkeys(("threshold", "f1", "precision", "recall"))
    kept = np.arange(1, len(hits) + 1)
    f1 = 2 * found / (kept + objects)
    f1[np.append(scores[1:] == scores[:-1], False)] = 0  # a threshold keeps all of one score
    best = int(f1.argmax())
    following = scores[best + 1] if best + 1 < len(scores) else 0.0
    return {
        "threshold": float(scores[best] + following) / 2,
        "f1": float(f1[best]),
        "precision": float(found[best] / kept[best]),
        "recall": float(found[best] / objects),
    }
