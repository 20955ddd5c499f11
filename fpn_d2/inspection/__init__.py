"""A look at a data set before training, and at the mistakes of a detector after it.

Each name is imported from its module when it is first asked for: a check of files draws nothing.
"""

import importlib
from typing import Any

_MODULES = {
    "ErrorAnalysis": "error_analysis",
    "Inspection": "measurements",
    "PyramidLevels": "tested_levels",
    "analysis_summary": "analysis_page",
    "analyze_run": "evaluated_sets",
    "check_dataset": "dataset_check",
    "summary": "inspection_page",
    "write_analysis": "analysis_page",
    "write_inspection": "inspection_page",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
