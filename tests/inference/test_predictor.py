"""The predictor resizes and refuses images; the last NMS; names of models, classes, categories."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from random_detectors import detect, image_of, random_detector
from torch import nn
from torchvision.ops import box_iou

from fpn_d2 import UserError
from fpn_d2.data import build_test_mapper
from fpn_d2.data.dataset_mapper import map_record
from fpn_d2.demo import parse_rows
from fpn_d2.demo.outputs import coco_results
from fpn_d2.inference import (
    Predictor,
    class_names,
    dataset_category_ids,
    free_title,
    set_final_nms,
    set_score_threshold,
    split_pair,
)
from fpn_d2.inference.predictor import detections_above

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
SIZES = ["INPUT.MIN_SIZE_TEST", 200, "INPUT.MAX_SIZE_TEST", 100, "MODEL.WEIGHTS", ""]


@pytest.fixture(scope="module")
def model(row_config):
    return build_model(row_config(ROW))


@pytest.mark.parametrize("resize, height", [("detectron2", 81), ("torchvision", 80)])
def test_an_image_is_resized_as_the_config_says(row_config, model, resize, height):
    predictor = Predictor(row_config(ROW, *SIZES, "INPUT.RESIZE_TEST", resize), model)
    seen = []
    predictor.model.model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][0]["image"].shape)
    )
    # 97 x 120 px times 100 / 120: 80.83 x 100
    predictor.detect(np.zeros((97, 120, 3), np.uint8))
    assert seen == [(3, height, 100)]


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601", "HSV"])
def test_an_image_is_what_evaluation_makes_of_its_file(row_config, tmp_path, image_format):
    values = [1.0] * (1 if image_format == "L" else 3)
    keys = ["MODEL.PIXEL_MEAN", values, "MODEL.PIXEL_STD", values, "INFERENCE.PREPARE", False]
    cfg = row_config(ROW, *SIZES, "INPUT.FORMAT", image_format, *keys)
    seen, path = [], str(tmp_path / "a.png")

    class Recorder(nn.Module):
        def forward(self, records):
            seen.append(records[0]["image"])
            boxes = Boxes(torch.zeros(0, 4))
            found = Instances((30, 40), pred_boxes=boxes, scores=torch.zeros(0))
            return [{"instances": found}]

    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(path)
    Predictor(cfg, Recorder()).detect(rgb)
    expected = map_record(build_test_mapper(cfg), {"file_name": path})["image"]
    torch.testing.assert_close(seen[0], expected.float(), rtol=0, atol=1e-6)


def test_an_image_is_refused_if_resizing_leaves_no_pixel(row_config, model):
    predictor = Predictor(row_config(ROW, *SIZES), model)
    # 3 px times 100 / 5000 are 0.06, and times 100 / 500 are 0.6, which is rounded up
    with pytest.raises(UserError, match="5000 x 3 pixels is too narrow"):
        predictor.detect(np.zeros((3, 5000, 3), np.uint8))
    predictor.detect(np.zeros((3, 500, 3), np.uint8))


def test_fast_rcnn_is_refused_in_words(row_config):
    with pytest.raises(UserError, match="proposals from a file"):
        Predictor(row_config("quick/Fast-RCNN/fast_rcnn_R_18_FPN"))


def test_only_boxes_without_classes_are_thinned_out():
    corners = torch.arange(0, 3000, 100.0)[:, None]
    boxes = torch.cat([corners, corners, corners + 50, corners + 50], dim=1)
    boxes = Boxes(torch.cat([boxes, boxes + 5]))  # 30 pairs of IoU 45^2 / (2 * 50^2 - 45^2) = 0.68
    scores = torch.arange(60, 0, -1) / 60
    found = Instances((3100, 3100), pred_boxes=boxes, scores=scores)
    thin = detections_above({"instances": found}, 0.0)
    assert torch.equal(thin.scores, scores[:20])
    assert len(detections_above({"instances": found}, 0.9)) == 7  # 54 / 60 and more
    found.pred_classes = torch.zeros(60, dtype=torch.int64)
    assert len(detections_above({"instances": found}, 0.0)) == 60
    with pytest.raises(UserError, match="neither instances nor proposals"):
        detections_above({"sem_seg": None}, 0.0)


# --- the last NMS

NMS = [
    "MODEL.FPN.OUT_CHANNELS", 32, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
]  # fmt: skip
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    *("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224),
]
CLIPPING = ["MODEL.META_ARCHITECTURE", "ClippingRetinaNet"]


def found_by(model):
    """Boxes (R, 4) and classes (R,) that a model finds in noise, with proposals all of class 0."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        ((found,),) = (result.values() for result in model([{"image": image}]))
    if found.has("proposal_boxes"):
        return found.proposal_boxes.tensor, torch.zeros(len(found))
    return found.pred_boxes.tensor, found.pred_classes


@pytest.mark.parametrize(
    "row, opts",
    [
        ("Faster-RCNN/faster_rcnn_R_18_FPN", []),
        ("Faster-RCNN/faster_rcnn_R_18_FPN", CASCADE),
        ("RetinaNet/retinanet_R_18_FPN", []),
        ("RetinaNet/retinanet_R_18_FPN", CLIPPING),
        ("RPN/rpn_R_18_FPN", []),
    ],
)
def test_the_last_nms(row_config, row, opts):
    torch.manual_seed(0)
    model = build_model(row_config(f"quick/{row}", *NMS, *opts)).eval()
    set_final_nms(model, 0.2, 100_000)
    boxes, classes = found_by(model)
    # An RPN's NMS is within a level, and a RetinaNet's boxes are clipped after it.
    if "Faster" in row or opts is CLIPPING:
        ious = box_iou(boxes, boxes).fill_diagonal_(0)
        assert float(ious[classes[:, None] == classes].max()) <= 0.2 + 1e-4
    set_final_nms(model, 1.0)
    assert 1 < len(boxes) < len(found_by(model)[0])
    set_final_nms(model, 1.0, 7)
    assert len(found_by(model)[0]) == 7


# --- names of models


@pytest.mark.parametrize(
    "words, pair",
    [
        ("a/b.yaml:model.pth", ("a/b.yaml", "model.pth")),
        ("b.yml:https://x.org/m.pkl", ("b.yml", "https://x.org/m.pkl")),
        ("C:/b.yaml:C:/m.pth", ("C:/b.yaml", "C:/m.pth")),
        *(
            (words, None)
            for words in ("b.yaml", "b.yaml:", "b.txt:a.pth", "a.pth:b.yaml", ":b", "")
        ),
    ],
)
def test_the_config_of_a_pair_ends_at_its_suffix(words, pair):
    if pair is None:
        with pytest.raises(UserError, match=r"--compare .* is not of the form CONFIG:WEIGHTS"):
            split_pair(words, "--compare")
    else:
        assert split_pair(words, "--model") == pair


def test_titles_are_numbered_where_they_must_be():
    taken = {}
    for path in ("a/row.yaml", "b/row.yaml", "other.yaml", "c/row.yaml"):
        taken[free_title(path, taken)] = path
    assert list(taken) == ["row", "row (2)", "other", "row (3)"]


def test_weights_that_are_given_twice_are_refused(repo):
    config = str(repo / f"configs/{ROW}.yaml")
    with pytest.raises(UserError, match="--weights"):
        parse_rows(config, "a.pth", (), ["MODEL.WEIGHTS", "b.pth"])


# --- names of classes


@pytest.fixture
def subclass(row_config):
    """The name of a meta-architecture that a user registers."""
    row_config("torchvision/retinanet_R_50_FPN")  # registers what other code bases' models need

    @META_ARCH_REGISTRY.register()
    class MyRetinaNet(META_ARCH_REGISTRY.get("ClippingRetinaNet")):
        pass

    yield MyRetinaNet.__name__
    del META_ARCH_REGISTRY._obj_map[MyRetinaNet.__name__]


@pytest.mark.parametrize("own", [False, True], ids=["converted", "a user's subclass"])
def test_a_retinanet_of_any_kind_has_its_classes(row_config, subclass, own):
    cfg = row_config(
        "torchvision/retinanet_R_50_FPN",
        *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128),
        *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
        *(["MODEL.META_ARCHITECTURE", subclass] if own else []),
    )
    names, ids = class_names(cfg), dataset_category_ids(cfg)
    assert (names[0], names[79], ids[0], ids[79]) == ("person", "toothbrush", 1, 90)
    torch.manual_seed(0)
    found = Predictor(cfg, build_model(cfg)).detect(np.zeros((64, 64, 3), np.uint8), threshold=0.0)
    classes = found.pred_classes.tolist()
    assert max(classes) > 1
    results = coco_results(found, 1, ids)
    assert [result["category_id"] for result in results] == [ids[i] for i in classes]


SHAPES = ["circle", "cross", "square", "star", "triangle"]
NUMBERED = [f"class {i}" for i in range(5)]


@pytest.mark.parametrize(
    "row, opts, names, ids",
    [
        (ROW, [], SHAPES, [1, 2, 3, 4, 5]),
        (ROW, ["DATASETS.TEST", "()"], SHAPES, [1, 2, 3, 4, 5]),  # TRAIN's
        (ROW, ["DATASETS.TEST", "('nowhere',)"], NUMBERED, [0, 1, 2, 3, 4]),
        (ROW, ["DATASETS.TEST", "()", "DATASETS.TRAIN", "()"], NUMBERED, [0, 1, 2, 3, 4]),
        ("quick/RPN/rpn_R_18_FPN", [], [], [1]),
    ],
)
def test_names_and_ids_are_the_data_sets_where_it_is_known(row_config, row, opts, names, ids):
    cfg = row_config(row, *opts)
    assert (class_names(cfg), dataset_category_ids(cfg)) == (names, ids)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_data_set_that_was_not_read_yet_is_read(row_config, tmp_path, caplog, damaged):
    categories = [{"id": 10 * (i + 1), "name": f"kind {i}"} for i in range(5)]
    content = json.dumps({"images": [], "annotations": [], "categories": categories})
    path = tmp_path / "instances.json"
    path.write_text(content[:-9] if damaged else content)
    register_coco_instances("unread", {}, str(path), str(tmp_path))
    cfg = row_config(ROW, "DATASETS.TEST", "('unread',)")
    expected = [NUMBERED, list(range(5))]
    if not damaged:
        expected = [[f"kind {i}" for i in range(5)], [10, 20, 30, 40, 50]]
    assert [class_names(cfg), dataset_category_ids(cfg)] == expected
    assert ("unread cannot be read" in caplog.text) == damaged
    DatasetCatalog.remove("unread")
    MetadataCatalog.remove("unread")


@pytest.mark.parametrize("row", ["Faster-RCNN/faster_rcnn_R_18_C5", "RetinaNet/retinanet_R_18_FPN"])
def test_a_class_has_a_threshold_of_its_own(row_config, row):
    cfg = row_config(f"quick/{row}", "INPUT.MIN_SIZE_TEST", 150)
    model, image = random_detector(cfg), image_of(120, 150)
    set_final_nms(model, 0.5, 10_000)  # no best hundred, which other thresholds would change
    set_score_threshold(model, 0.05)
    boxes, scores, classes = detect(model, image)
    own = [float(scores[classes == k].median()) if (classes == k).any() else 0.5 for k in range(5)]
    enough = scores > torch.tensor(own)[classes]
    assert 0 < enough.sum() < len(scores)
    set_score_threshold(model, own)
    for found, expected in zip(detect(model, image), (boxes, scores, classes), strict=True):
        torch.testing.assert_close(found, expected[enough])
    # of what the model returned, as the demo asks for it
    instances = Instances((120, 150), pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
    shown = detections_above({"instances": instances}, own)
    assert len(shown) == (scores >= torch.tensor(own)[classes]).sum()


def test_proposals_have_no_threshold_of_a_class(row_config):
    with pytest.raises(UserError, match="has no classes"):
        set_score_threshold(build_model(row_config("quick/RPN/rpn_R_18_FPN")), 0.5)
