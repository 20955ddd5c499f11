"""Data sets and loaders; importing this registers ``shapes`` and your own COCO-format folders."""

from .build import build_test_loader, build_train_loader, load_train_dataset
from .checks import check_names, check_settings
from .dataset_check import check_file
from .first_images import register_first_images
from .folders import datasets_root, register_coco_folders
from .resizing import TorchvisionResize, build_test_mapper, build_test_resize
from .shapes import ShapesSpec, generate_shapes, register_shapes
from .stream import TrainStream

__all__ = [
    "ShapesSpec",
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
    "generate_shapes",
    "load_train_dataset",
    "register_coco_folders",
    "register_first_images",
    "register_shapes",
]

register_shapes(datasets_root())
register_coco_folders(datasets_root())
register_first_images("coco_2014_val_first5k", of="coco_2014_val", count=5000)  # Table 6
