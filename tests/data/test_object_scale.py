"""Training images at the scale of one of their objects (the baseline of Table 6)."""

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from fpn_d2.data.object_scale import ObjectScaleMapper, _start

ROW = "quick/Mask-Proposals/mask_R_18_image_pyramid"


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((100, 120, 3), dtype=np.uint8)).save(path)

    def make(*sides, crowd=0):
        annotations = [
            {
                "bbox": [10, 10, side, side / 2],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "iscrowd": crowd,
                "segmentation": [rectangle(10, 10, 10 + side, 10 + side / 2)],
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


def sides(mapper, record) -> np.ndarray:
    """Height and width of 30 images."""
    return np.array([mapper(record)["image"].shape[1:] for _ in range(30)])


def test_the_pyramids_scales_are_the_limits(row_config, record):
    uncropped = "INPUT.MAX_SIZE_TRAIN", 2000
    # The test makes 100 x 120 px to 267 x 320 (MAX_SIZE_TEST): times 2^0.5 and 2^-2.5
    mapper = ObjectScaleMapper(row_config(ROW, *uncropped))
    assert (sides(mapper, record(2)) == (377, 453)).all()
    mapper = ObjectScaleMapper(row_config(ROW, *uncropped, "INPUT.MAX_SIZE_TEST", 1000))
    assert (sides(mapper, record(2)) == (453, 543)).all()  # 320 x 384
    opts = ["MODEL.MASK_PROPOSAL.TEST_SCALES", "[0.5, 1.0, 2.0]"]
    mapper = ObjectScaleMapper(row_config(ROW, *uncropped, *opts))
    assert (sides(mapper, record(2)) == (533, 640)).all()
    mapper = ObjectScaleMapper(row_config(ROW, *uncropped, *opts, "INPUT.OBJECT_SCALE_TRAIN", 1.0))
    assert (sides(mapper, record(119)) == (133, 160)).all()


def test_a_long_image_is_cropped_with_the_whole_object_in_it(row_config, record):
    mapper = ObjectScaleMapper(row_config(ROW, "INPUT.RANDOM_FLIP", "none"))
    places = set()
    for _ in range(30):
        made = mapper(record(40))
        assert made["image"].shape[2] <= 320
        # 40 x 20 px at (10, 10), at scale 128: 107.6 to 152.2, and a mask's box has whole pixels
        ((x0, y0, x1, y1),) = made["instances"].gt_boxes.tensor.tolist()
        assert 107 <= x1 - x0 <= 153
        assert 53 <= y1 - y0 <= 77
        places.add(round(x0))
    assert len(places) > 5


def test_an_object_longer_than_the_crop_is_there_with_its_centre():
    for _ in range(50):
        assert _start(40, 100, 20, 50) in range(10, 21)  # 20 to 50 within start to start + 40
        assert _start(40, 100, 90, 100) == 60
        assert _start(40, 100, 0, 100) in range(10, 51)  # 50 within
    assert _start(100, 100, 20, 50) == 0


def test_an_object_that_no_scale_reaches_is_drawn_where_there_is_no_other(row_config, record):
    mapper = ObjectScaleMapper(row_config(ROW))
    size = np.array([100, 120])
    # 320 / 120 * 2^0.5 = 3.77, so 128 px are reached from 128 / 3.77 / 2^0.25 = 28.5 px on
    for _ in range(20):
        assert mapper._choose(record(28, 29), size)[2] == 10 + 29
        assert mapper._choose(record(28), size)[2] == 10 + 28


def test_every_object_has_its_turn_and_crowds_have_none(row_config, record):
    mapper = ObjectScaleMapper(row_config(ROW, "INPUT.MAX_SIZE_TRAIN", 2000))
    heights = sides(mapper, record(40, 100))[:, 0]
    assert heights.min() < 160 < 250 < heights.max()  # 128 and 320, times 2^-0.25 to 2^0.25
    # without an object to choose the image keeps its size, within 2^0.25
    for nothing in (record(40, crowd=1), record()):
        heights = sides(mapper, nothing)[:, 0]
        assert 84 <= heights.min() < heights.max() <= 119
