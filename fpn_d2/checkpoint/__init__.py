"""Checkpoints: loading without running code, a model with its weights, resuming, conversion."""

from .checkpointer import SafeCheckpointer, load_model

__all__ = ["SafeCheckpointer", "load_model"]
