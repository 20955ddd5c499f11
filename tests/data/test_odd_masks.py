"""Odd objects of real annotation files pass through training and evaluating mask proposals."""

import itertools
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from coco_files import coco_content, coco_image, coco_object, write_files
from detectron2.utils.events import EventStorage
from PIL import Image

from fpn_d2.data import build_train_loader
from fpn_d2.data.datasets import register_folders
from fpn_d2.engine import Trainer

SIDE = 64
MASK = np.zeros((SIDE, SIDE), dtype=np.uint8)
MASK[10:30, 20:50] = 1
COMPRESSED = mask_util.encode(np.asfortranarray(MASK))
COMPRESSED["counts"] = COMPRESSED["counts"].decode()
# column by column: 20 empty columns and 10 pixels, then 20 of each 64, and the rest
RUNS = [20 * SIDE + 10, *[20, SIDE - 20] * 29, 20, SIDE * SIDE - 49 * SIDE - 30]
ODD = {
    "polygon": [[20, 10, 50, 10, 50, 30, 20, 30]],
    "larger than the image": [[-500, -500, 900, -500, 900, 900, -500, 900]],
    "thinner than a pixel": [[20, 10, 20.2, 10, 20.2, 50, 20, 50]],
    "outside": [[-30, -30, -10, -30, -10, -10]],
    "two parts, one of no area": [[5, 5, 5, 5, 5, 5], [20, 10, 50, 10, 50, 30]],
    "compressed RLE": COMPRESSED,
    "RLE": {"size": [SIDE, SIDE], "counts": RUNS},
    "RLE of nothing": {"size": [SIDE, SIDE], "counts": [SIDE * SIDE]},
}
ROWS = [f"quick/Mask-Proposals/mask_R_18_{name}" for name in ("dual", "image_pyramid")]


def test_the_runs_are_the_mask():
    assert (mask_util.decode(mask_util.frPyObjects(ODD["RLE"], SIDE, SIDE)) == MASK).all()


@pytest.fixture
def data(tmp_path):
    """``data(segmentation, ...)``: write a training and a test set of two images each, every image
    with all of these masks; return the overrides that name the sets."""

    def make(*segmentations, crowd=()):
        files = {}
        images = [coco_image(number, SIDE, SIDE) for number in (1, 2)]
        for image in images:
            pixels = np.random.default_rng(image["id"]).integers(0, 255, (SIDE, SIDE, 3))
            files[f"images/{image['file_name']}"] = Image.fromarray(pixels.astype(np.uint8))
        annotations = []
        for image, (i, mask) in itertools.product(images, enumerate(segmentations)):
            more = {"segmentation": mask, "iscrowd": int(i in crowd)}
            number = len(annotations) + 1
            annotations.append(coco_object(number, image["id"], [20, 10, 30, 20], **more))
        text = json.dumps(coco_content(images, annotations, "thing"))
        files |= {f"annotations/instances_{split}.json": text for split in ("train", "val")}
        write_files(tmp_path / "odd", files)
        register_folders(str(tmp_path))
        return "DATASETS.TRAIN", "('odd_train',)", "DATASETS.TEST", "('odd_val',)"

    return make


def train_and_evaluate(cfg):
    losses = []
    trainer = Trainer(cfg)
    with EventStorage() as storage:
        for batch, _ in zip(build_train_loader(cfg), range(2), strict=False):
            losses.append(trainer.model(batch))
            storage.step()
    assert all(loss.isfinite() for step in losses for loss in step.values())
    torch.stack([loss for step in losses for loss in step.values()]).sum().backward()
    trainer.model.eval()
    return Trainer.test(cfg, trainer.model)


SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2),
    *("DATALOADER.NUM_WORKERS", 0, "SOLVER.AMP.ENABLED", False),
]


@pytest.mark.parametrize("row", ROWS)
def test_odd_objects_train_and_are_counted(data, row_config, row, tmp_path):
    names = data(*ODD.values())
    cfg = row_config(row, *SMALL, *names, "OUTPUT_DIR", tmp_path / "out")
    results = train_and_evaluate(cfg)["mask_proposals"]
    assert 0 <= results["AR@1000"] <= 100


@pytest.mark.parametrize("row", ROWS)
def test_images_of_crowds_alone_train(data, row_config, row, tmp_path):
    names = data(COMPRESSED, ODD["RLE"], crowd=(0, 1))
    opts = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "OUTPUT_DIR", tmp_path / "out"]
    results = train_and_evaluate(row_config(row, *SMALL, *names, *opts))["mask_proposals"]
    assert np.isnan(results["AR@1000"])  # no object
