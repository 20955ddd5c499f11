"""Evaluation: COCO's metrics, kept beside the predictions they are of."""

from .coco_evaluation import ResultsWritingCOCOEvaluator

__all__ = ["ResultsWritingCOCOEvaluator"]
