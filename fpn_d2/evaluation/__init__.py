"""COCO's metrics, written beside the predictions that they measure, and the recall of masks."""

from .coco_evaluation import ResultsWritingCOCOEvaluator, load_ground_truth
from .mask_recall import MaskRecallEvaluator
from .matching import match_boxes
from .metric_names import metric_names
from .score_thresholds import class_thresholds, score_threshold
from .voc_evaluation import ResultsWritingVOCEvaluator

__all__ = [
    "MaskRecallEvaluator",
    "ResultsWritingCOCOEvaluator",
    "ResultsWritingVOCEvaluator",
    "class_thresholds",
    "load_ground_truth",
    "match_boxes",
    "metric_names",
    "score_threshold",
]
