"""From an image to detections, and to what is particular to a pyramid on the way there."""

from .compiled import compile_backbone
from .explanation import AnchorMatches, Explainer, Explanation, Proposals
from .final_nms import final_nms_iou, set_final_nms
from .model_choice import free_title, split_pair
from .predictor import Predictor, class_names, dataset_category_ids
from .prepared import PreparedModel, prepare_model

__all__ = [
    "AnchorMatches",
    "Explainer",
    "Explanation",
    "Predictor",
    "PreparedModel",
    "Proposals",
    "class_names",
    "compile_backbone",
    "dataset_category_ids",
    "final_nms_iou",
    "free_title",
    "prepare_model",
    "set_final_nms",
    "split_pair",
]
