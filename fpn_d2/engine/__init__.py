"""Training: the trainer with its seams, the start of processes, runs that follow each other."""

from .launch import launch
from .output_dir import check_output_dir, restored_config
from .trainer import Trainer

__all__ = ["Trainer", "check_output_dir", "launch", "restored_config"]
