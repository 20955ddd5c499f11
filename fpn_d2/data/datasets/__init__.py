"""Data sets: the built-in shapes, folders in four layouts, the first images of COCO 2014 val."""

from .folders import datasets_root, register_first_images, register_folders
from .shapes import ShapesSpec, generate_shapes, register_shapes

__all__ = [
    "ShapesSpec",
    "datasets_root",
    "generate_shapes",
    "register_coco_folders",
    "register_first_images",
    "register_folders",
    "register_shapes",
]

register_coco_folders = register_folders  # its name in version 0.1

register_shapes(datasets_root())
register_folders(datasets_root())
register_first_images("coco_2014_val_first5k", of="coco_2014_val", count=5000)  # Table 6
register_first_images("photos_train", of="coco_2017_val", count=4000)  # for the scale "photos"
register_first_images("photos_val", of="coco_2017_val", count=1000, start=4000)
