"""A data set before training: its objects' sizes, levels and anchors, measured and shown."""

from .inspection_page import summary, write_inspection
from .measurements import Inspection

__all__ = ["Inspection", "summary", "write_inspection"]
