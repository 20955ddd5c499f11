"""From an image to detections, and to what is particular to a pyramid on the way there."""

from .choices import free_title, split_pair
from .explanation import AnchorMatches, Explainer, Explanation, Proposals
from .predictor import Predictor, class_names, dataset_category_ids

__all__ = [
    "AnchorMatches",
    "Explainer",
    "Explanation",
    "Predictor",
    "Proposals",
    "class_names",
    "dataset_category_ids",
    "free_title",
    "split_pair",
]
