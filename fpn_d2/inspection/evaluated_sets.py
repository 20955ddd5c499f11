"""A run's evaluated test sets: its detections read, checked and analysed."""

import math
import os
from typing import Any

from detectron2.config import CfgNode
from pycocotools.coco import COCO

from ..evaluation import load_ground_truth
from ..utils.errors import UserError
from ..utils.files import read_json
from ..utils.progress import told
from .error_analysis import ErrorAnalysis
from .tested_levels import PyramidLevels


def analyze_run(run: str, cfg: CfgNode) -> tuple[list[ErrorAnalysis], list[str]]:
    """Analyse every test set on which a run was evaluated.

    Args:
        run: an ``OUTPUT_DIR`` of train_net.
        cfg: the run's config, which says at which scale images are tested.

    Returns:
        an analysis for each test set, and a sentence for each that cannot be analysed.

    Raises:
        UserError: if there is none that can be analysed.
    """
    folder = os.path.join(run, "inference")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    names = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    if not names:
        raise UserError(
            f"{run} holds no inference/<data set>, which an evaluation writes; name the OUTPUT_DIR "
            "of train_net.py, and evaluate with --eval-only if it has not been"
        )
    analyses, faults, levels = [], [], PyramidLevels.of_config(cfg, fewest=2)
    for name in told("analysing", names, unit="test set"):
        try:
            analyses.append(_analyze_test_set(os.path.join(folder, name), levels))
        except UserError as error:
            faults.append(str(error))
    if not analyses:
        raise UserError(faults[0])
    return analyses, faults


def _analyze_test_set(inference_dir: str, levels: PyramidLevels) -> ErrorAnalysis:
    """Analyse ``<OUTPUT_DIR>/inference/<data set>``, as an evaluation left it."""
    dataset = os.path.basename(os.path.normpath(inference_dir))
    path = os.path.join(inference_dir, "coco_instances_results.json")
    if not os.path.isfile(path):
        proposals = ("box_proposals.pkl", "mask_proposals.json")
        there = [n for n in proposals if os.path.isfile(os.path.join(inference_dir, n))]
        if there:
            raise UserError(
                f"{inference_dir} holds proposals ({there[0]}), which have no classes to analyse; "
                "draw them by tools/draw_results.py, or analyse a detector"
            )
        raise UserError(
            f"{inference_dir} holds no coco_instances_results.json; evaluate the model first, with "
            "train_net.py --eval-only"
        )
    truth, image_root = load_ground_truth(dataset)
    if not any(not a.get("iscrowd", 0) for a in truth.anns.values()):
        raise UserError(f"data set {dataset} has no objects to find; analyse another test set")
    analysis = ErrorAnalysis(dataset, truth, _read_detections(path, truth), levels)
    analysis.image_root = image_root
    return analysis


def _read_detections(path: str, truth: COCO) -> list[dict[str, Any]]:
    """Read and check ``coco_instances_results.json``; ``truth`` is of its data set."""
    results = read_json(path)
    if not isinstance(results, list):
        raise UserError(f"{path} is no list of results; evaluate the model again")
    if not results:
        raise UserError(
            f"{path} holds no detections, so there is nothing to analyse: train longer, or lower "
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST (MODEL.RETINANET.SCORE_THRESH_TEST)"
        )
    detections = []
    for number, result in enumerate(results):
        try:
            fields = {key: result[key] for key in ("image_id", "category_id", "bbox", "score")}
            values = [float(value) for value in (fields["score"], *fields["bbox"])]
            ids = {"image": fields["image_id"], "category": fields["category_id"]}
            sound = len(values) == 5 and all(map(math.isfinite, values))
            sound = sound and all(isinstance(id, (int, float, str)) for id in ids.values())
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise UserError(
                f"{path}: entry {number} is no detection with image_id, category_id, bbox and "
                "score; evaluate the model again"
            )
        for kind, known in (("image", truth.imgs), ("category", truth.cats)):
            if ids[kind] not in known:
                raise UserError(
                    f"{path}: there is no {kind} {ids[kind]} in the annotations of its data set, "
                    "so it is of another one or of an earlier one; evaluate the model again"
                )
        # Without its mask; the key keeps pycocotools from making a polygon of each box.
        detections.append({**fields, "segmentation": None})
        results[number] = None
    return detections
