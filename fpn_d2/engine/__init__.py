"""Training: the trainer with its seams, and the start of one or more processes."""

from .launch import launch
from .trainer import Trainer

__all__ = ["Trainer", "launch"]
