"""Models in other forms: prepared for fast inference, and exported as one file."""

from .checking import Parity, check_export, load_exported, read_check_images
from .compiling import compile_backbone
from .exporting import FORMATS, Exported, export_model
from .prepared import PreparedModel, prepare_model
from .writing import check_output, write_export

__all__ = [
    "FORMATS",
    "Exported",
    "Parity",
    "PreparedModel",
    "check_export",
    "check_output",
    "compile_backbone",
    "export_model",
    "load_exported",
    "prepare_model",
    "read_check_images",
    "write_export",
]
