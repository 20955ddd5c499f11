"""A data set before training: its objects' sizes, levels and anchors, measured and shown."""

from .dataset_check import check_dataset
from .inspection_page import summary, write_inspection
from .measurements import Inspection

__all__ = ["Inspection", "check_dataset", "summary", "write_inspection"]
