"""Models in other forms: prepared for fast inference."""

from .compiling import compile_backbone
from .prepared import PreparedModel, prepare_model

__all__ = ["PreparedModel", "compile_backbone", "prepare_model"]
