"""Data sets and loaders; importing this registers ``shapes`` and your own COCO-format folders."""

from .build import build_test_loader, build_train_loader, load_train_dataset
from .checks import check_names, check_settings
from .dataset_check import check_file
from .datasets import datasets_root
from .resizing import TorchvisionResize, build_test_mapper, build_test_resize
from .stream import TrainStream

__all__ = [
    "TorchvisionResize",
    "TrainStream",
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
