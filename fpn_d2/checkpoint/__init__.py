"""Checkpoints: loading with the user's mistakes in words, and a model with its weights."""

from .checkpointer import FPNCheckpointer
from .loading import load_model

__all__ = ["FPNCheckpointer", "load_model"]
