"""Training images at the scale of one of their objects (the baseline of Table 6)."""

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from fpn_d2.data.object_scale import ObjectScaleMapper

ROW = "quick/Mask-Proposals/mask_R_18_image_pyramid"


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((100, 120, 3), dtype=np.uint8)).save(path)

    def make(*sides, crowd=0):
        square = [[10, 10, 30, 10, 30, 30, 10, 30]]
        annotations = [
            {
                "bbox": [10, 10, side, side / 2],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "iscrowd": crowd,
                "segmentation": square,
            }
            for side in sides
        ]
        return {
            "file_name": str(path),
            "height": 100,
            "width": 120,
            "image_id": 1,
            "annotations": annotations,
        }

    return make


def test_one_object_gets_the_scale(row_config, record):
    mapper = ObjectScaleMapper(row_config(ROW, "INPUT.MASK_FORMAT", "bitmask"))
    seen = []
    for _ in range(30):
        side = mapper(record(50))["image"].shape[1] / 100 * 50
        seen.append(side)
        # 128 px, times 2^-0.25 to 2^0.25, but for the rounding of the image's side
        assert 128 * 2**-0.25 - 1 < side < 128 * 2**0.25 + 1
    assert len(set(seen)) > 5


def test_the_pyramids_scales_are_the_limits(row_config, record):
    mapper = ObjectScaleMapper(row_config(ROW))
    # 320 * 2^0.5 = 452.5 and 320 * 2^-2.5 = 56.6 px
    assert mapper(record(2))["image"].shape[1] == 453
    assert mapper(record(119))["image"].shape[1] > 57
    assert mapper._shorter_side({**record(6000)}) == 57


def test_every_object_has_its_turn_and_crowds_have_none(row_config, record):
    mapper = ObjectScaleMapper(row_config(ROW))
    sides = {round(12800 / mapper._shorter_side(record(40, 100))) for _ in range(40)}
    assert min(sides) < 60
    assert max(sides) > 80
    # without an object to choose the image keeps its size, within 2^0.25
    assert 84 <= mapper._shorter_side(record(40, crowd=1)) <= 119
    assert 84 <= mapper._shorter_side(record()) <= 119
