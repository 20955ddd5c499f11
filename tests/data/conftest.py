"""Small COCO-format data sets."""

import pytest
from coco_files import sound_content, write_coco
from detectron2.config import get_cfg

from fpn_d2 import add_fpn_config
from fpn_d2.data.datasets import register_folders


@pytest.fixture
def zoo(tmp_path):
    """``zoo(train, val)``: write zoo_train and zoo_val, sound files with the changes that these
    functions make, and register them; return the folder."""

    def write(train=lambda content: None, val=lambda content: None):
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
