"""The check finds the faults of a file and accepts a right one; its numbers become a table."""

import copy
import functools
import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from random_detectors import detect, random_detector

from fpn_d2 import UserError
from fpn_d2.export import (
    Parity,
    check_export,
    export_model,
    export_table,
    read_check_images,
    report_parity,
)
from fpn_d2.export.parity import (
    _are_among,
    _candidates,
    _compare_boxes,
    load_exported,
    random_proposals,
)

load_once = functools.cache(load_exported)


@pytest.fixture(scope="module")
def exported(row_config):
    """A random Fast R-CNN that keeps all of its detections, and its file."""
    cfg = row_config("quick/Fast-RCNN/fast_rcnn_R_18_C5", "TEST.DETECTIONS_PER_IMAGE", 5000)
    model = random_detector(cfg)
    return model, export_model(cfg, model, "torchscript")


@pytest.fixture(autouse=True)
def few_proposals(monkeypatch):
    """Take few proposals, since all pairs of detections are compared, and load each file once."""
    monkeypatch.setattr("fpn_d2.export.parity.NUM_PROPOSALS", 100)
    monkeypatch.setattr("fpn_d2.export.parity.load_exported", load_once)


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


def test_other_scores_and_boxes_elsewhere_are_found_and_no_detection_shows_nothing(
    exported, images
):
    model, file = exported
    other = copy.deepcopy(model)
    scores, boxes = other.roi_heads.box_predictor.cls_score, other.roi_heads.box_predictor.bbox_pred
    scores.bias.data[2] += 0.25
    parity = check_export(file, other, images)
    assert parity.head_max_error == pytest.approx(0.25, abs=1e-4)
    assert not parity.is_within_tolerance
    scores.bias.data[2] -= 0.25
    boxes.bias.data += 1.0  # a tenth of the box's width
    parity = check_export(file, other, images)
    assert parity.matched_share < 0.5
    assert not parity.is_within_tolerance
    scores.bias.data[-1] = 100.0
    with pytest.raises(UserError, match=r"nothing above a score of 0.05 .* --images"):
        check_export(file, other, images)


def test_a_nan_is_no_small_difference(exported, images, monkeypatch):
    def load(*file):
        def run(inputs):
            outputs = load_once(*file)(inputs)
            for deltas in outputs[5:]:  # which only the file to check returns
                deltas[0] = torch.nan
            return outputs

        return run

    model, file = exported
    monkeypatch.setattr("fpn_d2.export.parity.load_exported", load)
    parity = check_export(file, model, images)
    assert parity.matched == parity.detections
    assert not parity.is_within_tolerance


@pytest.mark.parametrize(
    "detections, found, matched, tied, error, is_within",
    [
        *((1000, 1000, 995, 0, 1e-3, True), (1000, 1000, 994, 0, 0, False)),
        *((1000, 1000, 900, 100, 0, True), (1000, 1000, 890, 100, 0, False)),
        *((995, 1001, 995, 0, 0, False), (9, 9, 9, 0, 1.1e-3, False)),
    ],
)
def test_the_bar(detections, found, matched, tied, error, is_within):
    parity = Parity([], detections, found, matched, tied, head_max_error=error)
    assert parity.is_within_tolerance == is_within


def boxes_at(*places):
    """Return squares of 10 px for places (x, score) or (x, score, class), best first."""
    x = torch.tensor([float(place[0]) for place in places])
    boxes = torch.stack([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], dim=1)
    classes = torch.tensor([float(sum(place[2:])) for place in places])
    return boxes, torch.tensor([place[1] for place in places]), classes


TIES = {  # boxes of the file, of the model, and those its NMS chose from; (matched, tied)
    # only the box at 0 covers the one at -2 as well
    "of two boxes of one score either may be kept": (
        [(1, 0.75), (-2, 0.5), (50, 0.25)],
        [(0, 0.75), (50, 0.25)],
        [(0, 0.75), (1, 0.75), (-2, 0.5), (50, 0.25)],
        (1, 2),
    ),
    "a box that wins with a lower score is not tied": (
        [(1, 0.7)],
        [(0, 0.75)],
        [(0, 0.75), (1, 0.7)],
        (0, 0),
    ),
    "scores that only rounding tells apart are tied": (
        [(1, 0.75)],
        [(0, 0.750005)],
        [(0, 0.750005), (1, 0.75)],
        (0, 1),
    ),
    "boxes of two classes are not tied": (
        [(1, 0.75, 1)],
        [(0, 0.75)],
        [(0, 0.75), (1, 0.75, 1)],
        (0, 0),
    ),
    "a box whose score the model never had is not tied": (
        [(1, 0.75)],
        [(0, 0.75)],
        [(0, 0.75), (1, 0.7)],
        (0, 0),
    ),
    # as in a trace that keeps the size of its image: all scores are right, and all boxes wrong
    "boxes that the model never had are not tied": (
        [(1, 0.75), (21, 0.5)],
        [(0, 0.75), (20, 0.5)],
        [(0, 0.75), (20, 0.5)],
        (0, 0),
    ),
}


@pytest.mark.parametrize("case", TIES)
def test_how_many_boxes_are_matched_and_tied(case):
    *places, matched_and_tied = TIES[case]
    found, expected, candidates = (boxes_at(*place) for place in places)
    parity = Parity()
    _compare_boxes(parity, found, expected, lambda: candidates)
    assert (parity.matched, parity.tied) == matched_and_tied


def test_differences_are_the_largest_of_all_images_and_unsure_boxes_do_not_count():
    parity = Parity()
    for x, score in ((0.0625, 0.75), (0, 0.5)):
        _compare_boxes(parity, boxes_at((x, score), (50, 0.05)), boxes_at((0, 0.5)), tuple)
    assert (parity.found, parity.detections, parity.matched) == (2, 2, 2)
    assert (parity.max_pixels, parity.max_score) == (0.0625, 0.25)


def test_ties_of_one_image_do_not_excuse_a_box_that_another_lost():
    some = [(40 * place, 0.9) for place in range(50)]
    one, two = [*some, (9005, 0.9)], [*some, (9000, 0.9), (9010, 0.9)]  # one overlaps both of two
    parity = Parity()
    for found, expected in ((one, two), (two, one)):
        candidates = boxes_at(*some, *one[50:], *two[50:])
        _compare_boxes(parity, boxes_at(*found), boxes_at(*expected), lambda c=candidates: c)
    assert parity.tied == 4
    assert parity.is_within_tolerance
    _compare_boxes(parity, boxes_at(*some[1:]), boxes_at(*some), lambda: boxes_at(*some))
    assert not parity.is_within_tolerance


@pytest.mark.parametrize(
    "row", ["RPN/rpn_R_18_FPN", "RetinaNet/retinanet_R_18_FPN", "Faster-RCNN/faster_rcnn_R_18_FPN"]
)
def test_the_candidates_are_what_nms_chooses_from(row_config, images, row):
    cfg = row_config(f"quick/{row}")
    model = random_detector(cfg)
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


def test_an_image_comes_in_three_sizes_resized_as_the_model_is_tested(row_config, tmp_path):
    opts = ["INPUT.MIN_SIZE_TEST", 100, "INPUT.MAX_SIZE_TEST"]
    path = str(tmp_path / "blue.png")
    Image.fromarray(np.full((50, 75, 3), (10, 20, 30), np.uint8)).save(path)
    images = read_check_images(row_config("quick/RPN/rpn_R_18_FPN", *opts, 200), [path])
    assert [tuple(x.shape) for x in images] == [(3, 100, 150), (3, 77, 116), (3, 123, 185)]
    assert images[0][:, 0, 0].tolist() == [30, 20, 10]  # BGR
    Image.fromarray(np.zeros((33, 50, 3), np.uint8)).save(path)
    images = read_check_images(row_config("torchvision/faster_rcnn_R_50_FPN", *opts, 101), [path])
    # torchvision rounds the sides down: 33 * 101 / 50 = 66.66
    assert tuple(images[0].shape) == (3, 66, 101)
    # 0 is an image's own size
    images = read_check_images(row_config("quick/RPN/rpn_R_18_FPN", opts[0], 0), [path])
    assert [tuple(x.shape) for x in images] == [(3, 33, 50), (3, 25, 38), (3, 41, 62)]


def test_a_config_key_among_the_images_is_told_from_a_file(row_config, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(path)
    cfg = row_config("quick/RPN/rpn_R_18_FPN")
    for key in ("MODEL.DEVICE", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "SEED"):
        sentence = rf"^image {key} does not exist; config overrides come last, .* {key} <value>$"
        with pytest.raises(UserError, match=sentence):
            read_check_images(cfg, [str(path), key, "cpu"])
    with pytest.raises(UserError, match="image gone.png does not exist; name another by --images"):
        read_check_images(cfg, ["gone.png"])


def test_what_is_no_image_or_no_data_set_is_named(row_config, tmp_path, tiny_opts, monkeypatch):
    row, path = "quick/RPN/rpn_R_18_FPN", tmp_path / "a.jpg"
    for content in (b"", b"no image"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.jpg .*; name another by --images"):
            read_check_images(row_config(row), [str(path)])
    with pytest.raises(UserError, match=r"nowhere_val.*name images by --images"):
        read_check_images(row_config(row, "DATASETS.TEST", "('nowhere_val',)"))
    # without images, the first ones of the test set
    assert len(read_check_images(row_config(row, *tiny_opts))) == 9
    for records, sentence in (
        (Mock(return_value=[]), "no image to check the export on; name some by --images"),
        (Mock(side_effect=OSError("val.json")), r"^val\.json; or name images by --images"),
    ):
        monkeypatch.setattr("detectron2.data.DatasetCatalog.get", records)
        with pytest.raises(UserError, match=sentence):
            read_check_images(row_config(row, *tiny_opts))


# --- the report


def test_a_model_has_one_row_for_each_format(tmp_path):
    path = tmp_path / "results" / "export.json"
    parity = Parity([(10, 20), (10, 20), (30, 20)], 199, 200, 199, 1, 1.26e-5, 0.02, 3e-6)
    report_parity(path, "b", "onnx", Parity(detections=1))
    report_parity(path, "b", "onnx", parity)
    report_parity(path, "b", "torchscript", parity)
    report_parity(path, "a", "torchscript", parity)
    content = json.loads(path.read_text())
    assert [(row["model"], row["format"]) for row in content["exports"]] == [
        ("a", "torchscript"),
        ("b", "onnx"),
        ("b", "torchscript"),
    ]
    table = export_table(content["exports"]).splitlines()
    cells = [cell.strip() for cell in table[3].split("|")]
    assert " | ".join(cells) == " | b | onnx | 3 (2) | 200 | 99.50 | 1 | 2e-02 | 3e-06 | 1e-05 | "


@pytest.mark.parametrize(
    "content",
    [
        *('{"rows": []}', "[]", '{"exports": 1}'),
        *('{"exports": [1]}', '{"exports": [{"model": "a"}]}'),
    ],
)
def test_a_file_of_something_else_is_kept(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json is no report of exports"):
        report_parity(path, "a", "onnx", Parity())
    assert path.read_text() == content


def test_a_report_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "report.json"
    with pytest.raises(UserError, match=rf"^{path} could not be written .*; name another --json"):
        report_parity(path, "a", "onnx", Parity())
