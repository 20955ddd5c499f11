"""The accuracy of exported files on a validation set."""

from types import SimpleNamespace

import pytest
import torch
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


@pytest.mark.parametrize("objects", [[], [{"iscrowd": 1}]])
def test_images_without_objects_judge_nothing(cfg, objects, monkeypatch):
    monkeypatch.setattr("pycocotools.coco.COCO.loadAnns", lambda *_, **__: objects)
    with pytest.raises(UserError, match=r"first 2 images of .*, which have no objects"):
        accuracy.judge_int8(cfg, FILE, FILE, 2)
