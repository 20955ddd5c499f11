"""The accuracy of exported files on a validation set."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes

from fpn_d2 import UserError
from fpn_d2.export import accuracy
from fpn_d2.export.exporter import Exported

FILE = Exported("onnx", b"", b"", {})
NOTHING = [torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)]


@pytest.fixture
def cfg(row_config, tiny_opts, monkeypatch):
    monkeypatch.setattr(accuracy, "load_exported", lambda *_: lambda inputs: NOTHING)
    return row_config("quick/Faster-RCNN/faster_rcnn_R_18_C5", *tiny_opts)


def test_images_without_proposals_calibrate_nothing(cfg, monkeypatch):
    boxes = [SimpleNamespace(proposal_boxes=Boxes(torch.zeros(n, 4))) for n in (2, 0)]
    records = [{"image": torch.zeros(3, 4, 4), "proposals": one} for one in boxes]
    monkeypatch.setattr(accuracy, "calibration_images", lambda _: records)
    (sample,) = accuracy.calibration_inputs(cfg)
    assert sample["proposals"].shape == (2, 4)
    del records[0]
    with pytest.raises(UserError, match=r"calibrated on images \(with proposals"):
        accuracy.calibration_inputs(cfg)


def test_a_file_that_finds_nothing_has_an_ap_of_zero(cfg):
    expected = {"metric": "AP", "float32": 0.0, "int8": 0.0, "evaluated_images": 3}
    assert accuracy.judge_int8(cfg, FILE, FILE, 3) == expected


@pytest.mark.parametrize(
    ("row", "metric"), [("Faster-RCNN/faster_rcnn_R_18_C5", "AP"), ("RPN/rpn_R_18_FPN", "AR@1000")]
)
def test_each_file_is_judged_by_what_it_finds(
    row, metric, row_config, tiny_opts, tiny_truth, monkeypatch
):
    """One finds every object, in pixels of an input larger than the image; one finds nothing."""
    kinds = {kind["id"]: i for i, kind in enumerate(tiny_truth["categories"])}

    def load(content, *_):
        images = iter(tiny_truth["images"])

        def run(inputs):
            image = next(images)
            of_image = [a for a in tiny_truth["annotations"] if a["image_id"] == image["id"]]
            objects = of_image if content else []
            _, height, width = inputs["image"].shape
            scale = torch.tensor([width / image["width"], height / image["height"]] * 2)
            boxes = scale * torch.tensor([a["bbox"] for a in objects]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            classes = torch.tensor([kinds[a["category_id"]] for a in objects])
            found = [boxes, torch.ones(len(boxes)), classes]
            return found if metric == "AP" else found[:2]

        return run

    monkeypatch.setattr(accuracy, "load_exported", load)
    cfg = row_config(f"quick/{row}", *tiny_opts, "INPUT.MIN_SIZE_TEST", 128)
    judged = accuracy.judge_int8(cfg, dataclasses.replace(FILE, content=b"all"), FILE, 500)
    assert judged == {"metric": metric, "float32": 100.0, "int8": 0.0, "evaluated_images": 4}


def test_a_data_set_of_lvis_is_refused(cfg, monkeypatch):
    monkeypatch.setitem(vars(MetadataCatalog.get("tiny_val")), "evaluator_type", "lvis")
    with pytest.raises(UserError, match=r"tiny_val is LVIS's; name another set in DATASETS.TEST"):
        accuracy.judge_int8(cfg, FILE, FILE, 2)


@pytest.mark.parametrize("objects", [[], [{"iscrowd": 1}]])
def test_images_without_objects_judge_nothing(cfg, objects, monkeypatch):
    monkeypatch.setattr("pycocotools.coco.COCO.loadAnns", lambda *_, **__: objects)
    with pytest.raises(UserError, match=r"first 2 images of .*, which have no objects"):
        accuracy.judge_int8(cfg, FILE, FILE, 2)
