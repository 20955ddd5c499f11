"""COCO's metrics, written beside the predictions that they measure, and the recall of masks.

Modules that training need not import are separate: ``mask_recall``, and ``matching``,
``saved_detections`` and ``score_thresholds``, which work on the results of an evaluation.
"""

from .evaluators import (
    ResultsWritingCOCOEvaluator,
    ResultsWritingVOCEvaluator,
    build_evaluator,
    load_ground_truth,
    metric_names,
)

__all__ = [
    "ResultsWritingCOCOEvaluator",
    "ResultsWritingVOCEvaluator",
    "build_evaluator",
    "load_ground_truth",
    "metric_names",
]
