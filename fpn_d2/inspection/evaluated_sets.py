"""Read, check and analyse the detections of a run on its evaluated test sets."""

import logging
import os

from detectron2.config import CfgNode

from ..evaluation import load_ground_truth
from ..evaluation.saved_detections import read_detections
from ..utils.errors import UserError
from ..utils.files import read_json
from ..utils.progress import working
from .error_analysis import ErrorAnalysis
from .tested_levels import PyramidLevels

logger = logging.getLogger(__name__)

_SAME_AP = 0.1  # points


def analyze_run(run: str, cfg: CfgNode) -> tuple[list[ErrorAnalysis], list[str]]:
    """Analyse every test set on which a run was evaluated.

    Args:
        run: an ``OUTPUT_DIR`` of train_net.
        cfg: the run's config, which says at which scale images are tested.

    Returns:
        an analysis for each test set, and a sentence for each that cannot be analysed.

    Raises:
        UserError: if no test set can be analysed.
    """
    folder = os.path.join(run, "inference")
    entries = os.scandir(folder) if os.path.isdir(folder) else ()
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise UserError(
            f"{run} holds no inference/<data set>, which an evaluation writes; name the OUTPUT_DIR "
            "of train_net.py, and evaluate with --eval-only if it has not been"
        )
    analyses, faults, levels = [], [], PyramidLevels.of_config(cfg, fewest=2)
    for name in names:
        try:
            with working(f"analysing {name}"):
                analyses.append(_analyze_test_set(os.path.join(folder, name), levels))
            if 0 <= cfg.TEST.DETECTIONS_PER_IMAGE <= 100:  # of more, AP counts only 100 here
                _compare_ap(analyses[-1], os.path.join(folder, name, "results.json"))
        except UserError as error:
            faults.append(str(error))
    if not analyses:
        raise UserError(faults[0])
    return analyses, faults


def _analyze_test_set(inference_dir: str, levels: PyramidLevels) -> ErrorAnalysis:
    """Analyse ``<OUTPUT_DIR>/inference/<data set>``, as an evaluation left it."""
    dataset = os.path.basename(inference_dir)
    truth, image_root = load_ground_truth(dataset)
    path = os.path.join(inference_dir, "coco_instances_results.json")
    if not os.path.isfile(path):
        proposals = ("box_proposals.pkl", "mask_proposals.json")
        there = [n for n in proposals if os.path.isfile(os.path.join(inference_dir, n))]
        if there:
            raise UserError(
                f"{inference_dir} holds proposals ({there[0]}), which have no classes to analyse; "
                "draw them by tools/draw_results.py, or analyse a detector"
            )
        if os.path.isfile(os.path.join(inference_dir, "lvis_instances_results.json")):
            raise UserError(
                f"{inference_dir} holds LVIS's detections, and this reads COCO's; analyse a test "
                "set that is evaluated as COCO's"
            )
        raise UserError(
            f"{inference_dir} holds no coco_instances_results.json; evaluate the model first, with "
            "train_net.py --eval-only"
        )
    known = [a for a in truth.anns.values() if a.get("image_id") in truth.imgs]
    if all(a.get("iscrowd", 0) or a.get("category_id") not in truth.cats for a in known):
        raise UserError(f"data set {dataset} has no objects to find; analyse another test set")
    detections = read_detections(path, truth)
    if not detections:
        raise UserError(
            f"{path} holds no detections, so there is nothing to analyse: train longer, or lower "
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST (MODEL.RETINANET.SCORE_THRESH_TEST)"
        )
    analysis = ErrorAnalysis(dataset, truth, detections, levels)
    analysis.image_root = image_root
    return analysis


def _compare_ap(analysis: ErrorAnalysis, results: str) -> None:
    """Warn if the AP is not that of the evaluation, which the file ``results`` holds."""
    measured = read_json(results).get("bbox", {}).get("AP") if os.path.isfile(results) else None
    found = analysis.ap["AP"] or 0
    if measured is not None and abs(measured - found) > _SAME_AP:
        logger.warning(
            "data set %s: the detections have AP %.1f here and had %.1f when they were made, so "
            "its annotations have changed since, or their ids: evaluate the model again",
            *(analysis.dataset, found, measured),
        )
