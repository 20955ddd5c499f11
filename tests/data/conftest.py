"""Small COCO-format data sets."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coco_files import coco_content, coco_image, coco_object
from detectron2.config import get_cfg
from PIL import Image

from fpn_d2 import add_fpn_config
from fpn_d2.data.datasets import register_folders

WIDTH, HEIGHT = 40, 32


def sound_content(images: int = 4) -> dict[str, Any]:
    """Return a sound file's content: two classes, a box in each image but the empty last one."""
    return coco_content(
        [coco_image(i + 1, WIDTH, HEIGHT, f"{i}.png") for i in range(images)],
        [coco_object(i + 1, i + 1, [2 + i, 3, 10, 12], 1 + i % 2) for i in range(images - 1)],
        *("cat", "dog"),
    )


def masked_coco_content() -> dict[str, Any]:
    """Return the same with a mask for each object: polygons and an RLE."""
    content = sound_content()
    polygon, rle = [[3, 3, 9, 3, 9, 9]], {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT]}
    for annotation, mask in zip(content["annotations"], (polygon, rle, polygon), strict=True):
        annotation["segmentation"] = mask
    return content


def write_coco(root: Path, name: str, split: str, content: Any) -> Path:
    """Write ``<root>/<name>/`` with four images and this annotation file; return its path."""
    images, annotations = root / name / "images", root / name / "annotations"
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(exist_ok=True)
    for i in range(4):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 50 * i, np.uint8)).save(images / f"{i}.png")
    path = annotations / f"instances_{split}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def coco():
    """The three helpers, for test files that cannot import a conftest."""
    return SimpleNamespace(content=sound_content, masked=masked_coco_content, write=write_coco)


def sound(content):
    """Leave the content of a file as it is."""


@pytest.fixture
def zoo(tmp_path):
    """``zoo(train, val)``: write zoo_train and zoo_val, sound files with the changes that these
    functions make, and register them; return the folder."""

    def write(train=sound, val=sound):
        for split, change in (("train", train), ("val", val)):
            content = sound_content()
            change(content)
            write_coco(tmp_path, "zoo", split, content)
        register_folders(str(tmp_path))
        return tmp_path / "zoo"

    return write


@pytest.fixture
def cfg():
    """The config of a box detector on zoo_train and zoo_val."""
    cfg = get_cfg()
    add_fpn_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("zoo_train",), ("zoo_val",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    # what random weights need
    cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.NORM = 0, "BN"
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (32,), 32
    cfg.INPUT.MASK_FORMAT, cfg.SEED = "bitmask", 7
    return cfg
