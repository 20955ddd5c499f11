"""inspection/: what it measures of a data set whose numbers are known, and the page of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpn_d2 import UserError
from fpn_d2.inspection import inspect_dataset, summary, write_inspection
from fpn_d2.inspection.inspection_page import draw_samples
from fpn_d2.inspection.measurements import AnchorSetup

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

FPN = "quick/RPN/rpn_R_18_FPN"
# Anchors of 32 px to 512 px at their places, Eq. 1 at the paper's constants, images as they are.
PAPER = [
    "INPUT.MIN_SIZE_TEST", 0,
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224,
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]",
]  # fmt: skip


def square(center, side):
    return [center - side / 2, center - side / 2, side, side]


def write_squares(root: Path, sides, draw=True) -> str:
    """One image of 640 px for each side, with a square on a place of all levels."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "a <b> $x$"}]}
    for i, side in enumerate(sides):
        name = f"{i}.png"
        content["images"].append({"id": i, "file_name": name, "height": 640, "width": 640})
        annotation = {"id": i + 1, "image_id": i, "category_id": 7, "bbox": square(320, side)}
        content["annotations"].append({**annotation, "iscrowd": 0})
        if draw:
            Image.fromarray(np.zeros((640, 640, 3), np.uint8)).save(root / "images" / name)
    path = root / "annotations" / "instances_val.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_sizes_levels_and_reach_by_arithmetic(tmp_path, row_config):
    # Eq. 1: 224 px is P4's, 112 px P3's, 448 px P5's, and 100 px is below 112. A square of 10 px
    # has IoU 100 / 1024 with an anchor of 32 px; one of 20 px has 400 / 1024; 25 px: 625 / 1024.
    path = write_squares(tmp_path, [224, 112, 448, 100, 10, 20, 25])
    found = inspect_dataset(path, row_config(FPN, *PAPER), FPN)
    np.testing.assert_allclose(found.sides, [224, 112, 448, 100, 10, 20, 25], rtol=1e-6)
    assert found.levels.tolist() == [4, 3, 5, 2, 2, 2, 2]
    assert found.reached.tolist() == [True, True, True, True, False, False, True]
    np.testing.assert_allclose(
        found.ious.max(axis=1)[4:], np.array([100, 400, 625]) / 1024, rtol=1e-6
    )
    numbers = found.as_json()
    assert {k: v["unreached"] for k, v in numbers["by_level"].items()} == {2: 2, 3: 0, 4: 0, 5: 0}
    assert numbers["by_size"][16] == {"objects": 2, "unreached": 1, "unmatched": 0}
    assert numbers["reach"] == numbers["suggestion"]["present_reach"] == pytest.approx(5 / 7)
    assert numbers["suggestion"]["reach"] > 5 / 7
    assert found.reached_by_suggestion.mean() == numbers["suggestion"]["reach"]


def test_boxes_are_measured_in_the_network_input(tmp_path, row_config):
    path = write_squares(tmp_path, [112])
    found = inspect_dataset(path, row_config(FPN, *PAPER, "INPUT.MIN_SIZE_TEST", 320), FPN)
    assert found.sides.tolist() == [56]


def test_the_page_and_its_numbers(tmp_path, row_config):
    path = write_squares(tmp_path / "set", [224, 20])
    found = inspect_dataset(path, row_config(FPN, *PAPER), FPN)
    page, numbers = write_inspection(found, str(tmp_path / "out"), samples=1)
    text = Path(page).read_text()
    assert Path(page).name == "instances_val_inspect.html"
    assert Path(numbers).name == "instances_val_inspect.json"
    assert text.count("data:image/jpeg;base64,") == 1
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text.replace("xlink:href", "href"))
    assert "<b> $x$" not in text  # a class's name is text
    assert "No anchor reaches 1 of the 2 objects" in text
    assert json.loads(Path(numbers).read_text())["objects"] == 2
    assert "No anchor reaches 1 of the 2 objects at IoU 0.5 (50.0 %)." in summary(found)


def test_another_data_set_of_the_same_file_name_is_not_replaced(tmp_path, row_config):
    one, two = (write_squares(tmp_path / name, [224]) for name in ("one", "two"))
    page, numbers = write_inspection(
        inspect_dataset(one, row_config(FPN, *PAPER), FPN), str(tmp_path / "out")
    )
    before = Path(page).read_bytes(), Path(numbers).read_bytes()
    other = inspect_dataset(two, row_config(FPN, *PAPER), FPN)
    with pytest.raises(UserError, match=r"is of another data set, .*one.*--output"):
        write_inspection(other, str(tmp_path / "out"))
    assert (Path(page).read_bytes(), Path(numbers).read_bytes()) == before
    write_inspection(inspect_dataset(one, row_config(FPN, *PAPER), FPN), str(tmp_path / "out"))


def test_images_that_are_not_there_or_broken_are_named(tmp_path, row_config):
    path = write_squares(tmp_path / "set", [224, 100, 50])
    (tmp_path / "set" / "images" / "1.png").unlink()
    (tmp_path / "set" / "images" / "2.png").write_bytes(b"no image")
    found = inspect_dataset(path, row_config(FPN, *PAPER), FPN)
    page, numbers = write_inspection(found, str(tmp_path / "out"))
    content = json.loads(Path(numbers).read_text())
    assert content["images_missing"] == ["1.png"]
    assert [s.partition(" (")[0] for s in content["samples_left_out"]] == [
        "image 2.png cannot be read"
    ]
    assert "1 image files are not in" in summary(found)
    assert Path(page).read_text().count("data:image/jpeg;base64,") == 1


@pytest.mark.parametrize(
    "row, features, strides",
    [
        (FPN, ["p2", "p3", "p4", "p5", "p6"], [4, 8, 16, 32, 64]),
        ("quick/RPN/rpn_R_18_C4", ["res4"], [16]),
        (
            "quick/RetinaNet/retinanet_R_18_FPN",
            ["p3", "p4", "p5", "p6", "p7"],
            [8, 16, 32, 64, 128],
        ),
    ],
)
def test_levels_with_anchors(row_config, row, features, strides):
    setup = AnchorSetup(row_config(row))
    assert setup.features == features
    assert setup.strides == strides
    assert len(setup.sizes) == len(features)


def test_thresholds_are_the_configs(row_config):
    retinanet = AnchorSetup(row_config("quick/RetinaNet/retinanet_R_18_FPN"))
    assert retinanet.matcher.thresholds[1:-1] == [0.4, 0.5]
    assert AnchorSetup(row_config(FPN)).matcher.thresholds[1:-1] == [0.3, 0.7]


@pytest.mark.parametrize(
    "row", ["quick/Mask-Proposals/mask_R_18_dual", "quick/Fast-RCNN/fast_rcnn_R_18_FPN"]
)
def test_a_config_without_anchors_is_refused(row_config, row):
    with pytest.raises(UserError, match="no upright anchors"):
        AnchorSetup(row_config(row))


def test_what_no_anchor_reaches_is_dashed(tmp_path, row_config):
    # 100 px: IoU 0.61 with an anchor of 128 px; 10 px: 0.1 with one of 32 px
    path = write_squares(tmp_path, [100, 10])
    samples, _ = draw_samples(inspect_dataset(path, row_config(FPN, *PAPER), FPN), 2)
    annotated = {name: np.asarray(picture)[-640:, :640] for name, picture in samples}
    white = {name: (pixels == 255).all(axis=-1).any() for name, pixels in annotated.items()}
    assert white == {"0.png": False, "1.png": True}
