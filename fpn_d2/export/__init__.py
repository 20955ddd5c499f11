"""Models in other forms: prepared for fast inference, and exported as one file."""

from .checking import Parity, check_export, load_exported, read_check_images
from .exporting import FORMATS, Exported, export_model
from .parity_report import check_report, export_table, report_parity
from .writing import check_output, write_export

__all__ = [
    "FORMATS",
    "Exported",
    "Parity",
    "check_export",
    "check_output",
    "check_report",
    "export_model",
    "export_table",
    "load_exported",
    "read_check_images",
    "report_parity",
    "write_export",
]
