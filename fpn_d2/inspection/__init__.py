"""A look at a data set before training, and at the mistakes of a detector after it."""

from .analysis_page import analysis_summary, write_analysis
from .dataset_check import check_dataset
from .error_analysis import ErrorAnalysis
from .evaluated_sets import analyze_run
from .inspection_page import summary, write_inspection
from .measurements import Inspection
from .tested_levels import PyramidLevels

__all__ = [
    "ErrorAnalysis",
    "Inspection",
    "PyramidLevels",
    "analysis_summary",
    "analyze_run",
    "check_dataset",
    "summary",
    "write_analysis",
    "write_inspection",
]
