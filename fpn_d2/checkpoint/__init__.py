"""Checkpoints: loading with the user's mistakes in words, a model with its weights, conversion."""

from .checkpointer import FPNCheckpointer
from .converting import convert_checkpoint, read_weights
from .foreign import SOURCES, check_complete, convert_foreign, find_source, norm_eps_of
from .loading import load_model
from .renaming import Conversion

__all__ = [
    "SOURCES",
    "Conversion",
    "FPNCheckpointer",
    "check_complete",
    "convert_checkpoint",
    "convert_foreign",
    "find_source",
    "load_model",
    "norm_eps_of",
    "read_weights",
]
