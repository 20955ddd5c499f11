"""From an image to detections, and what a pyramid does on the way there.

Each name is imported from its module when it is first used: training needs prepared models, but
nothing that explains or draws.
"""

import importlib
from typing import Any

_NAMES = {
    "explanation": ["AnchorMatches", "Explainer", "Explanation", "Proposals"],
    "names": ["Classes", "check_weights", "classes_of", "config_for", "free_title", "split_pair"],
    "predictor": ["Predictor", "set_final_nms", "set_score_threshold"],
    "prepared": ["PreparedModel", "compile_backbone", "prepare_as_configured", "prepare_model"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
