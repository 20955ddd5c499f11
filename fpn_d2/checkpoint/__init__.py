"""Checkpoints: loading with the user's mistakes in words, a model with its weights, conversion."""

from .checkpointer import FPNCheckpointer
from .converting import convert_checkpoint
from .loading import load_model

__all__ = ["FPNCheckpointer", "convert_checkpoint", "load_model"]
