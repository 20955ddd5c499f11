"""Models exported as one file, and how far the file is from the model."""

from .exporter import FORMATS, Exported, check_output, export_model, write_export
from .parity import (
    Parity,
    check_export,
    check_report,
    export_table,
    load_exported,
    read_check_images,
    report_parity,
)

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
