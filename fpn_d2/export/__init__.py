"""Export models as files, and measure how far a file is from its model."""

from .accuracy import calibration_inputs, judge_int8
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
    "calibration_inputs",
    "check_export",
    "check_output",
    "check_report",
    "export_model",
    "export_table",
    "judge_int8",
    "load_exported",
    "read_check_images",
    "report_parity",
    "write_export",
]
