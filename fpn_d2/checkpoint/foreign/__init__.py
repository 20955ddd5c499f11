"""Checkpoints of torchvision and maskrcnn-benchmark under this package's names."""

from .code_bases import SOURCES, check_complete, convert_foreign, find_source, norm_eps_of
from .renaming import Conversion

__all__ = [
    "SOURCES",
    "Conversion",
    "check_complete",
    "convert_foreign",
    "find_source",
    "norm_eps_of",
]
