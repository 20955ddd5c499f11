"""COCO's metrics, Pascal VOC's and LVIS's, written beside what they measure; and mask recall.

Modules that training need not import are separate: ``mask_recall``, and ``matching``,
``saved_detections`` and ``score_thresholds``, which work on the results of an evaluation.
"""

from .evaluators import (
    ResultsWritingCOCOEvaluator,
    ResultsWritingLVISEvaluator,
    ResultsWritingVOCEvaluator,
    build_evaluator,
    load_ground_truth,
    metric_names,
)

__all__ = [
    "ResultsWritingCOCOEvaluator",
    "ResultsWritingLVISEvaluator",
    "ResultsWritingVOCEvaluator",
    "build_evaluator",
    "load_ground_truth",
    "metric_names",
]
