"""Checkpoints: loading without running code, a model with its weights, resuming, conversion."""

from .checkpointer import SafeCheckpointer, load_model, trained_class_names

__all__ = ["SafeCheckpointer", "load_model", "trained_class_names"]
