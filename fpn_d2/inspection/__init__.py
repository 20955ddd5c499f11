"""A data set before training: its objects' sizes, levels and anchors, measured and shown."""

from .measure import Inspection, inspect_dataset
from .summary import summary, write_inspection

__all__ = ["Inspection", "inspect_dataset", "summary", "write_inspection"]
