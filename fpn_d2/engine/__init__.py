"""Training: the trainer with its seams, the start of processes, runs that follow each other."""

from .four_step import FourStep, proposal_opts
from .launch import launch
from .output_dir import check_output_dir, restored_config
from .runs import BusyError, Run, Runner
from .trainer import Trainer

__all__ = [
    "BusyError",
    "FourStep",
    "Run",
    "Runner",
    "Trainer",
    "check_output_dir",
    "launch",
    "proposal_opts",
    "restored_config",
]
