"""From an image to detections, and to what is particular to a pyramid on the way there.

Each name is imported from its module when it is first asked for: a training needs a prepared model,
and none of what explains or draws.
"""

import importlib
from typing import Any

_MODULES = {
    "AnchorMatches": "explanation",
    "Explainer": "explanation",
    "Explanation": "explanation",
    "Predictor": "predictor",
    "PreparedModel": "prepared",
    "Proposals": "explanation",
    "class_names": "predictor",
    "compile_backbone": "compiled",
    "dataset_category_ids": "predictor",
    "final_nms_iou": "final_nms",
    "free_title": "model_choice",
    "prepare_model": "prepared",
    "set_final_nms": "final_nms",
    "split_pair": "model_choice",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
