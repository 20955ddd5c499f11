"""Training: the trainer and its hooks, launching processes, a run's output folder."""

from .launch import launch, read_config
from .output_dir import check_output_dir, restored_config
from .trainer import Trainer

__all__ = ["Trainer", "check_output_dir", "launch", "read_config", "restored_config"]
