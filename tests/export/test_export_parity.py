"""The check finds what is wrong with a file and accepts what is right; its numbers are a table."""

import copy
import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from random_detectors import detect, spread_scores

from fpn_d2 import UserError
from fpn_d2.export import (
    Parity,
    check_export,
    export_model,
    export_table,
    read_check_images,
    report_parity,
)
from fpn_d2.export.parity import _are_among, _candidates, _compare_boxes, random_proposals


@pytest.fixture(scope="module")
def exported(row_config):
    """A random Fast R-CNN that keeps all of its detections, and its file."""
    cfg = row_config("quick/Fast-RCNN/fast_rcnn_R_18_C5", "TEST.DETECTIONS_PER_IMAGE", 5000)
    torch.manual_seed(0)
    model = build_model(cfg.clone()).eval()
    spread_scores(cfg, model)
    return model, export_model(cfg, model, "torchscript")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [255 * torch.rand(3, *size, generator=generator) for size in ((70, 90), (100, 64))]


def test_the_models_own_file_is_taken(exported, images):
    model, file = exported
    parity = check_export(file, model, images)
    assert parity.is_within_tolerance
    assert parity.sizes == [(70, 90), (100, 64)]
    assert parity.detections == parity.found == parity.matched > 0
    assert parity.summary().startswith("2 images of 2 sizes: ")


def test_another_heads_scores_are_found(exported, images):
    model, file = exported
    other = copy.deepcopy(model)
    other.roi_heads.box_predictor.cls_score.bias.data[2] += 0.25
    parity = check_export(file, other, images)
    assert parity.head_max_error == pytest.approx(0.25, abs=1e-4)
    assert not parity.is_within_tolerance


def test_boxes_elsewhere_are_found(exported, images):
    model, file = exported
    other = copy.deepcopy(model)
    other.roi_heads.box_predictor.bbox_pred.bias.data += 1.0  # a tenth of the box's width
    parity = check_export(file, other, images)
    assert parity.matched_share < 0.5
    assert not parity.is_within_tolerance


def test_a_model_that_finds_nothing_shows_nothing(exported, images):
    model, file = exported
    blind = copy.deepcopy(model)
    blind.roi_heads.box_predictor.cls_score.bias.data[-1] = 100.0
    with pytest.raises(UserError, match=r"nothing above a score of 0.05 .* --images"):
        check_export(file, blind, images)


def test_the_bar():
    assert Parity(detections=1000, found=1000, matched=995, head_max_error=1e-3).is_within_tolerance
    assert not Parity(detections=1000, found=1000, matched=994).is_within_tolerance
    assert Parity(detections=1000, found=1000, matched=900, tied=100).is_within_tolerance
    assert not Parity(detections=1000, found=1000, matched=890, tied=100).is_within_tolerance
    assert not Parity(detections=995, found=1001, matched=995).is_within_tolerance
    assert not Parity(detections=9, found=9, matched=9, head_max_error=1.1e-3).is_within_tolerance


def compare(found, expected, candidates):
    parity = Parity()
    _compare_boxes(parity, found, expected, lambda: candidates)
    return parity.matched, parity.tied


def boxes_at(*places):
    """(x, score): squares of 10 px of one class, best first."""
    x = torch.tensor([float(place[0]) for place in places])
    boxes = torch.stack([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], dim=1)
    return boxes, torch.tensor([place[1] for place in places]), torch.zeros(len(places))


def test_of_two_boxes_of_one_score_either_may_be_kept():
    """The boxes at 0 and 1 are tied; only the former covers the one at -2 as well."""
    all_of_them = boxes_at((0, 0.75), (1, 0.75), (-2, 0.5), (50, 0.25))
    expected = boxes_at((0, 0.75), (50, 0.25))
    found = boxes_at((1, 0.75), (-2, 0.5), (50, 0.25))
    assert compare(found, expected, all_of_them) == (1, 2)


def test_a_box_that_wins_with_a_lower_score_is_not_tied():
    all_of_them = boxes_at((0, 0.75), (1, 0.7))
    assert compare(boxes_at((1, 0.7)), boxes_at((0, 0.75)), all_of_them) == (0, 0)


def test_boxes_that_the_model_never_had_are_not_tied():
    """As in a trace that keeps the size of its image: all scores are right, and no box is."""
    expected = boxes_at((0, 0.75), (20, 0.5))
    assert compare(boxes_at((1, 0.75), (21, 0.5)), expected, expected) == (0, 0)


@pytest.mark.parametrize(
    "row",
    ["RPN/rpn_R_18_FPN", "RetinaNet/retinanet_R_18_FPN", "Faster-RCNN/faster_rcnn_R_18_FPN"],
)
def test_the_candidates_are_what_nms_chooses_from(row_config, images, row):
    cfg = row_config(f"quick/{row}")
    torch.manual_seed(0)
    model = build_model(cfg.clone()).eval()
    spread_scores(cfg, model)
    kept, candidates = detect(model, images[0]), _candidates(model, images[:1])
    assert len(candidates[0]) > len(kept[0]) > 0
    kept, candidates = (
        (*x, torch.zeros(len(x[0]))) if len(x) == 2 else x for x in (kept, candidates)
    )
    assert _are_among(kept, candidates).all()


def test_proposals_lie_in_the_image():
    boxes = random_proposals(200, 50, 80)
    assert boxes.shape == (200, 4)
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([80, 50, 80, 50]) + 1e-3).all()


def test_an_image_comes_in_three_sizes(row_config, tmp_path):
    cfg = row_config(
        "quick/RPN/rpn_R_18_FPN", "INPUT.MIN_SIZE_TEST", 100, "INPUT.MAX_SIZE_TEST", 200
    )
    path = str(tmp_path / "blue.png")
    Image.fromarray(np.full((50, 75, 3), (10, 20, 30), np.uint8)).save(path)
    images = read_check_images(cfg, [path])
    assert [tuple(x.shape) for x in images] == [(3, 100, 150), (3, 77, 116), (3, 123, 185)]
    assert images[0][:, 0, 0].tolist() == [30, 20, 10]  # BGR


def test_images_are_resized_as_the_model_is_tested(row_config, tmp_path):
    """torchvision rounds the sides down."""
    cfg = row_config(
        "torchvision/faster_rcnn_R_50_FPN", "INPUT.MIN_SIZE_TEST", 100, "INPUT.MAX_SIZE_TEST", 101
    )
    path = str(tmp_path / "image.png")
    Image.fromarray(np.zeros((33, 50, 3), np.uint8)).save(path)
    # 33 * 101 / 50 = 66.66
    assert tuple(read_check_images(cfg, [path])[0].shape) == (3, 66, 101)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_what_is_no_image_is_named(row_config, tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg .*; name another by --images"):
        read_check_images(row_config("quick/RPN/rpn_R_18_FPN"), [str(tmp_path / "a.jpg")])


def test_without_images_the_first_of_the_test_set_are_read(row_config, tiny_opts):
    images = read_check_images(row_config("quick/RPN/rpn_R_18_FPN", *tiny_opts))
    assert len(images) == 9


def test_a_data_set_that_is_not_there_is_named(row_config):
    cfg = row_config("quick/RPN/rpn_R_18_FPN", "DATASETS.TEST", "('nowhere_val',)")
    with pytest.raises(UserError, match=r"nowhere_val.*name images by --images"):
        read_check_images(cfg)


# --- the report


def test_a_model_has_one_row_for_each_format(tmp_path):
    path = tmp_path / "results" / "export.json"
    parity = Parity([(10, 20), (10, 20), (30, 20)], 200, 199, 199, 1, 1.26e-5, 0.02, 3e-6)
    report_parity(path, "b", "onnx", Parity(detections=1))
    report_parity(path, "b", "onnx", parity)
    report_parity(path, "a", "torchscript", parity)
    content = json.loads(path.read_text())
    assert [(row["model"], row["format"]) for row in content["exports"]] == [
        ("a", "torchscript"),
        ("b", "onnx"),
    ]
    table = export_table(content["exports"]).splitlines()
    cells = [cell.strip() for cell in table[3].split("|")]
    assert " | ".join(cells) == " | b | onnx | 3 (2) | 200 | 99.50 | 1 | 2e-02 | 3e-06 | 1e-05 | "


@pytest.mark.parametrize("content", ['{"rows": []}', "[]", '{"exports": 1}'])
def test_a_file_of_something_else_is_kept(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json is no report of exports"):
        report_parity(path, "a", "onnx", Parity())
    assert path.read_text() == content
