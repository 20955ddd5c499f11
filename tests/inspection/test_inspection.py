"""inspection/: its measurements of a data set whose numbers are known, and its page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from coco_files import coco_image, coco_object, write_files
from detectron2.data.datasets import register_coco_instances

from fpn_d2 import UserError
from fpn_d2.inspection.inspection_page import _half_octaves, summary, write_inspection
from fpn_d2.inspection.measurements import AnchorSetup, Inspection
from fpn_d2.inspection.samples import draw_augmented, draw_samples

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

FPN = "quick/RPN/rpn_R_18_FPN"
# Anchors of 32 px on P2 to 512 px on P6, Eq. 1 with the paper's constants, images not resized.
PAPER = [
    "INPUT.MIN_SIZE_TEST", 0,
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224,
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]",
]  # fmt: skip


@pytest.fixture
def inspect(row_config):
    """``inspect(path, KEY, value, ...)``: the inspection of an annotation file."""
    return lambda path, *opts: Inspection(path, row_config(FPN, *PAPER, *opts), FPN)


def write_squares(root: Path, sides) -> str:
    """Write an image of 640 px for each side, its square centred on an anchor of every level."""
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "a <b> $x$"}]}
    for i, side in enumerate(sides):
        content["images"].append(coco_image(i, 640, 640))
        box = [320 - side / 2, 320 - side / 2, side, side]
        content["annotations"].append(coco_object(i + 1, i, box, 7))
    images = {f"images/{i}.png": (640, 640) for i in range(len(sides))}
    write_files(root, {**images, "annotations/instances_val.json": json.dumps(content)})
    return str(root / "annotations/instances_val.json")


def test_sizes_levels_and_reach_by_arithmetic(tmp_path, inspect):
    # Eq. 1: 224 px is P4's, 112 px P3's, 448 px P5's, and 100 px is below 112. A square of 10 px
    # has IoU 100 / 1024 with an anchor of 32 px; one of 20 px has 400 / 1024; 25 px: 625 / 1024.
    found = inspect(write_squares(tmp_path, [224, 112, 448, 100, 10, 20, 25]))
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


def test_objects_are_counted_where_classes_share_a_name(tmp_path, inspect):
    path = Path(write_squares(tmp_path, [224, 112, 100]))
    content = json.loads(path.read_text())
    content["categories"] = [
        {"id": i, "name": name} for i, name in ((7, "cat"), (8, "cat"), (9, "a"))
    ]
    content["annotations"][2]["category_id"] = 8
    path.write_text(json.dumps(content))
    assert inspect(str(path)).by_class() == {"cat": 3, "a": 0}


def test_boxes_are_measured_in_the_network_input(tmp_path, inspect):
    found = inspect(write_squares(tmp_path, [112]), "INPUT.MIN_SIZE_TEST", 320)
    assert found.sides.tolist() == [56]


def test_the_page_and_its_numbers(tmp_path, inspect):
    found = inspect(write_squares(tmp_path / "set", [224, 20]))
    page, numbers = write_inspection(found, str(tmp_path / "out"), samples=1)
    text = Path(page).read_text()
    assert Path(page).name == "instances_val_inspect.html"
    assert Path(numbers).name == "instances_val_inspect.json"
    assert text.count("data:image/jpeg;base64,") == 1
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text.replace("xlink:href", "href"))
    assert "<b> $x$" not in text  # class names are escaped
    assert "No anchor reaches 1 of the 2 objects" in text
    assert json.loads(Path(numbers).read_text())["objects"] == 2
    assert "No anchor reaches 1 of the 2 objects at IoU 0.5 (50.0 %)." in summary(found)


def test_names_that_differ_behind_a_dot_have_pages_of_their_own(tmp_path, inspect):
    path = write_squares(tmp_path / "set", [224])
    for name in ("cars.v2i.coco_train", "cars.v2i.coco_valid"):
        register_coco_instances(name, {}, path, str(tmp_path / "set" / "images"))
        page, _ = write_inspection(inspect(name), str(tmp_path / "out"), samples=0)
        assert Path(page).name == f"{name}_inspect.html"


def test_another_data_set_of_the_same_file_name_is_not_replaced(tmp_path, inspect):
    one, two = (inspect(write_squares(tmp_path / name, [224])) for name in ("one", "two"))
    page, numbers = write_inspection(one, str(tmp_path / "out"))
    before = Path(page).read_bytes(), Path(numbers).read_bytes()
    with pytest.raises(UserError, match=r"is of another data set, .*one.*--output"):
        write_inspection(two, str(tmp_path / "out"))
    assert (Path(page).read_bytes(), Path(numbers).read_bytes()) == before
    write_inspection(one, str(tmp_path / "out"))


@pytest.mark.parametrize("image, side", [(0, 224), (1, 112)])
def test_augmented_images_are_beside_the_image(tmp_path, inspect, image, side):
    """Two records share one file, and each has its own object."""
    path = Path(write_squares(tmp_path, [224, 112]))
    path.write_text(path.read_text().replace("1.png", "0.png"))
    found = inspect(
        str(path),
        *("INPUT.AUGMENTATIONS", "[['RandomBrightness', 0, 0]]", "INPUT.MIN_SIZE_TRAIN", "(320,)"),
    )
    picture = np.asarray(draw_augmented(found, image))
    # Four pictures of 320 px and three gaps of 8 px, below their titles.
    assert picture.shape[1] == 4 * 320 + 3 * 8
    pictures = [picture[-320:, k * 328 : k * 328 + 320] for k in range(4)]
    # The box, at half its size, is in the middle even if flipped; its lines are coloured on black.
    for drawn in pictures:
        rows, columns = np.nonzero(drawn.max(axis=2) > 100)
        for found in (rows, columns):
            assert found.min() == pytest.approx(160 - side / 4, abs=3)
            assert found.max() == pytest.approx(160 + side / 4, abs=3)


def test_images_that_are_not_there_or_broken_are_named(tmp_path, inspect):
    path = write_squares(tmp_path / "set", [224, 100, 50])
    (tmp_path / "set" / "images" / "1.png").unlink()
    (tmp_path / "set" / "images" / "2.png").write_bytes(b"no image")
    found = inspect(path)
    page, numbers = write_inspection(found, str(tmp_path / "out"))
    content = json.loads(Path(numbers).read_text())
    assert content["images_missing"] == ["1.png"]
    (left_out,) = content["samples_left_out"]
    assert re.match(r"image \S*/2\.png is no image of a format .*: replace it, or take", left_out)
    assert "1 image files are not in" in summary(found)
    assert Path(page).read_text().count("data:image/jpeg;base64,") == 1


def test_what_no_anchor_reaches_is_dashed(tmp_path, inspect):
    # 100 px: IoU 0.61 with an anchor of 128 px; 10 px: 0.1 with one of 32 px
    samples, _ = draw_samples(inspect(write_squares(tmp_path, [100, 10])), 2)
    annotated = {name: np.asarray(picture)[-640:, :640] for name, picture in samples}
    white = {name: (pixels == 255).all(axis=-1).any() for name, pixels in annotated.items()}
    assert white == {"0.png": False, "1.png": True}


@pytest.mark.parametrize(
    "row, levels, thresholds",
    [
        (FPN, {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}, [0.3, 0.7]),
        ("quick/RPN/rpn_R_18_C4", {"res4": 16}, [0.3, 0.7]),
        (
            "quick/RetinaNet/retinanet_R_18_FPN",
            {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128},
            [0.4, 0.5],
        ),
    ],
)
def test_levels_with_anchors_and_thresholds_are_the_configs(row_config, row, levels, thresholds):
    setup = AnchorSetup(row_config(row, "MODEL.RPN.BOUNDARY_THRESH", 3))
    assert setup.boundary == (-1 if "RetinaNet" in row else 3)
    assert (setup.features, setup.strides) == (list(levels), list(levels.values()))
    assert len(setup.sizes) == len(levels)
    assert setup.matcher.thresholds[1:-1] == thresholds


def test_an_rpn_that_is_not_registered_here_reads_the_levels_of_its_key(row_config):
    opts = ["MODEL.PROPOSAL_GENERATOR.NAME", "NotHere", "MODEL.RPN.IN_FEATURES"]
    setup = AnchorSetup(row_config("quick/RPN/rpn_R_18_FPN", *opts, ["p2", "p3"]))
    assert (setup.features, setup.strides) == (["p2", "p3"], [4, 8])
    with pytest.raises(UserError, match="MODEL.RPN.IN_FEATURES names res4, but the backbone has"):
        AnchorSetup(row_config("quick/RPN/rpn_R_18_FPN", *opts, ["res4"]))


@pytest.mark.parametrize("row", ["Mask-Proposals/mask_R_18_dual", "Fast-RCNN/fast_rcnn_R_18_FPN"])
def test_a_config_without_anchors_is_refused(row_config, row):
    with pytest.raises(UserError, match="no upright anchors"):
        AnchorSetup(row_config(f"quick/{row}"))


def test_sides_of_a_power_of_two_are_in_one_octave(tmp_path, inspect):
    """40 px in images of 1000 px are 32 px at 800, but in float32 not all exactly."""
    path = Path(write_squares(tmp_path, [40] * 20))
    content = json.loads(path.read_text())
    for i, image in enumerate(content["images"]):
        image |= {"height": 1000, "width": 1000}
        content["annotations"][i]["bbox"] = [37 * i + 1, 41 * i + 3, 40, 40]
    path.write_text(json.dumps(content))
    found = inspect(str(path), "INPUT.MIN_SIZE_TEST", 800, "INPUT.MAX_SIZE_TEST", 1333)
    assert found.by_size()[32]["objects"] == 20
    assert np.histogram(found.sides, _half_octaves(found.sides))[0].sum() == 20


def test_a_folder_named_by_a_dot_is_called_by_its_name(tmp_path, row_config, monkeypatch):
    files = {"images/a.jpg": (40, 30), "labels/a.txt": "0 0.5 0.5 0.2 0.2\n"}
    write_files(tmp_path, {**files, "data.yaml": "train: images\nnames: [cat]\n"})
    monkeypatch.chdir(tmp_path)
    assert Inspection(".", row_config(FPN), FPN).dataset == f"{tmp_path}_train"
