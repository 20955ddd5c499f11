"""Checkpoints: loading with the user's mistakes in words, a model with its weights, conversion."""

from .checkpointer import SafeCheckpointer
from .conversion import convert_checkpoint, read_weights
from .loading import load_model

__all__ = ["SafeCheckpointer", "convert_checkpoint", "load_model", "read_weights"]
