"""The least score of a detection: one number, or for each class the one with the best F1."""

import logging
import os

from detectron2.config import CfgNode

from ..config_checks import class_head_key, num_classes
from ..config_values import value_of
from ..utils.errors import UserError
from ..utils.files import read_json

logger = logging.getLogger(__name__)

BEST_F1 = "best-f1"
ANALYSIS_FILE = "analysis.json"  # from tools/analyze_results.py, in a run's folder
# For a class that was never found, whose F1 is 0 everywhere: the demo's own threshold.
FALLBACK = 0.5


def score_threshold(words: str | float) -> float | str:
    """Read the value of ``--confidence-threshold``: a number from 0 to 1, or ``best-f1``.

    Raises:
        UserError: if it is neither.
    """
    if words == BEST_F1:
        return BEST_F1
    try:
        value = float(words)
    except ValueError:
        raise UserError(
            f"--confidence-threshold {words} is neither a number between 0 and 1 nor {BEST_F1}"
        ) from None
    if not 0 <= value <= 1:
        raise UserError(
            f"--confidence-threshold {value} is not between 0 and 1 (nor {BEST_F1}); correct it"
        )
    return value


def class_thresholds(threshold: float | str, cfg: CfgNode) -> float | list[float]:
    """Look up what ``best-f1`` stands for; a number stays as it is.

    Args:
        threshold: a number from 0 to 1, or ``best-f1``.
        cfg: the model's config. ``analysis.json`` is read beside its weights, or else in
            ``OUTPUT_DIR``, which the log tells; of several test sets, the first that
            ``DATASETS.TEST`` names decides, or else the first of the file.

    Returns:
        the number, or one for each class, at least the model's own ``SCORE_THRESH_TEST``: nothing
        below that was evaluated.

    Raises:
        UserError: for another number, or if there is no analysis or one of another model.
    """
    if threshold != BEST_F1:
        return score_threshold(threshold)
    weights = cfg.MODEL.WEIGHTS
    folder = os.path.dirname(weights) or "." if os.path.isfile(weights) else cfg.OUTPUT_DIR
    path, other = (os.path.join(place, ANALYSIS_FILE) for place in (folder, cfg.OUTPUT_DIR))
    if not os.path.isfile(path) and os.path.isfile(other):
        logger.warning("%s is not there, so the thresholds are those of %s", path, other)
        path = other
    if not os.path.isfile(path):
        raise UserError(
            f"{BEST_F1} needs {path}, which does not exist: write it by "
            f"python tools/analyze_results.py {folder}, or give a number"
        )
    if os.path.isfile(weights) and os.path.getmtime(weights) > os.path.getmtime(path):
        logger.warning(
            "%s is newer than %s, whose thresholds may be those of an earlier training: write them "
            "anew by python tools/analyze_results.py %s",
            *(weights, path, os.path.dirname(path) or "."),
        )
    content = read_json(path)
    try:
        test_sets = content["datasets"]
        named = [name for name in cfg.DATASETS.TEST if name in test_sets] or list(test_sets)
        found = [entry["threshold"] for entry in test_sets[named[0]]["classes"]]
        values = [FALLBACK if value is None else float(value) for value in found]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{path} is not of tools/analyze_results.py; write it anew, or give a number"
        ) from error
    number = num_classes(cfg) or 0
    if len(values) != number or not number:
        raise UserError(
            f"{path} has thresholds for {len(values)} classes, and the model has "
            f"{number or 'none'}; analyse this model's own run, or give a number"
        )
    least = value_of(cfg, class_head_key(cfg).replace("NUM_CLASSES", "SCORE_THRESH_TEST"))
    return [max(value, least) for value in values]
