"""The predictor resizes and refuses images; the names and ids of classes are the data set's."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances

from fpn_d2 import UserError
from fpn_d2.demo import parse_rows
from fpn_d2.demo.outputs import coco_results
from fpn_d2.inference import Predictor, class_names, dataset_category_ids
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


def test_an_image_is_refused_if_resizing_leaves_no_pixel(row_config, model):
    predictor = Predictor(row_config(ROW, *SIZES), model)
    # 3 px times 100 / 5000 are 0.06, and times 100 / 500 are 0.6, which is rounded up
    with pytest.raises(UserError, match="5000 x 3 pixels is too narrow"):
        predictor.detect(np.zeros((3, 5000, 3), np.uint8))
    predictor.detect(np.zeros((3, 500, 3), np.uint8))


def test_weights_that_are_given_twice_are_refused(repo):
    config = str(repo / f"configs/{ROW}.yaml")
    with pytest.raises(UserError, match="--weights"):
        parse_rows(config, "a.pth", (), ["MODEL.WEIGHTS", "b.pth"])


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


# --- the names of classes


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


def test_names_and_ids_are_the_data_sets_where_it_is_known(row_config):
    cfg = row_config(ROW)
    assert class_names(cfg) == ["circle", "cross", "square", "star", "triangle"]
    assert dataset_category_ids(cfg) == [1, 2, 3, 4, 5]
    assert class_names(row_config(ROW, "DATASETS.TEST", "()")) == class_names(cfg)  # TRAIN's
    unknown = row_config(ROW, "DATASETS.TEST", "('nowhere',)")
    assert dataset_category_ids(unknown) == [0, 1, 2, 3, 4]
    assert class_names(unknown)[4] == "class 4"
    none = row_config(ROW, "DATASETS.TEST", "()", "DATASETS.TRAIN", "()")
    assert class_names(none)[4] == "class 4"
    proposals = row_config("quick/RPN/rpn_R_18_FPN")
    assert (class_names(proposals), dataset_category_ids(proposals)) == ([], [1])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_data_set_that_was_not_read_yet_is_read(row_config, tmp_path, caplog, damaged):
    categories = [{"id": 10 * (i + 1), "name": f"kind {i}"} for i in range(5)]
    content = json.dumps({"images": [], "annotations": [], "categories": categories})
    path = tmp_path / "instances.json"
    path.write_text(content[:-9] if damaged else content)
    register_coco_instances("unread", {}, str(path), str(tmp_path))
    cfg = row_config(ROW, "DATASETS.TEST", "('unread',)")
    expected = [[f"class {i}" for i in range(5)], list(range(5))]
    if not damaged:
        expected = [[f"kind {i}" for i in range(5)], [10, 20, 30, 40, 50]]
    assert [class_names(cfg), dataset_category_ids(cfg)] == expected
    assert ("unread cannot be read" in caplog.text) == damaged
    DatasetCatalog.remove("unread")
    MetadataCatalog.remove("unread")
