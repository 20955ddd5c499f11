"""Data sets and loaders; importing this registers ``shapes`` and the folders of your own data."""

from .build import (
    build_loss_loader,
    build_test_loader,
    build_train_loader,
    check_names,
    check_settings,
    load_train_dataset,
)
from .dataset_mapper import TorchvisionResize, build_test_mapper, build_test_resize
from .datasets import datasets_root
from .stream import TrainStream
from .validation import check_file

__all__ = [
    "TorchvisionResize",
    "TrainStream",
    "build_loss_loader",
    "build_test_loader",
    "build_test_mapper",
    "build_test_resize",
    "build_train_loader",
    "check_file",
    "check_names",
    "check_settings",
    "datasets_root",
    "load_train_dataset",
]
