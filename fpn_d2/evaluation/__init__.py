"""Evaluation: COCO's metrics, kept beside the predictions they are of, and the recall of masks."""

from .coco_evaluation import ResultsWritingCOCOEvaluator
from .mask_recall import MaskRecallEvaluator
from .matching import match_boxes, match_detections

__all__ = [
    "MaskRecallEvaluator",
    "ResultsWritingCOCOEvaluator",
    "match_boxes",
    "match_detections",
]
