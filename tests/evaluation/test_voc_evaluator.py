"""A data set in Pascal VOC's format is measured as Pascal VOC does, or an error says why not."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image

from fpn_d2 import UserError, load_config
from fpn_d2.data import build_test_loader, build_train_loader
from fpn_d2.engine import Trainer
from fpn_d2.evaluation import (
    ResultsWritingCOCOEvaluator,
    ResultsWritingVOCEvaluator,
    mask_recall,
    metric_names,
)
from fpn_d2.modeling import MaskProposalNetwork

# Boxes as Pascal VOC writes them: pixels count from 1 on, and the last one is included.
CAT, DOG = (11, 11, 50, 50), (61, 61, 100, 100)
OBJECT = (
    "<object><name>{}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
SIZE = "<size><width>120</width><height>110</height><depth>3</depth></size>"


@pytest.fixture
def voc(tmp_path):
    """The folder of toy_voc, two images with a cat and a dog each."""
    folder = tmp_path / "VOC"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    (folder / "ImageSets/Main/test.txt").write_text("a\nb\n")
    for image in "ab":
        objects = OBJECT.format("cat", *CAT) + OBJECT.format("dog", *DOG)
        text = f"<annotation>{SIZE}{objects}</annotation>"
        (folder / f"Annotations/{image}.xml").write_text(text)
        Image.fromarray(np.zeros((110, 120, 3), np.uint8)).save(folder / f"JPEGImages/{image}.jpg")
    register_pascal_voc("toy_voc", str(folder), "test", 2007, ("cat", "dog"))
    MetadataCatalog.get("toy_voc").evaluator_type = "pascal_voc"
    return folder


@pytest.fixture
def cfg(tmp_path):
    """The config of a detector of two classes on toy_voc."""
    cfg = load_config("configs/Base-COCO.yaml")
    cfg.defrost()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("toy_voc",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATALOADER.NUM_WORKERS = 2, 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.OUTPUT_DIR = 2, str(tmp_path / "out")
    return cfg


def detections(*found):
    """Return triples (box in Pascal VOC's pixels, score, class) in the form of a model's output."""
    boxes, scores, classes = zip(*found, strict=True)
    instances = Instances((110, 120))
    instances.pred_boxes = Boxes(torch.tensor(boxes) - torch.tensor([1.0, 1.0, 0.0, 0.0]))
    instances.scores, instances.pred_classes = torch.tensor(scores), torch.tensor(classes)
    return {"instances": instances}


def test_the_metrics_of_pascal_voc(voc, cfg):
    evaluator = Trainer.build_evaluator(cfg, "toy_voc")
    assert type(evaluator) is ResultsWritingVOCEvaluator
    evaluator.reset()
    # Both cats are found. The dog with the highest score is false, and one dog is missed.
    evaluator.process(
        [{"image_id": "a"}, {"image_id": "b"}],
        [detections((CAT, 0.9, 0), (DOG, 0.5, 1), (CAT, 0.8, 1)), detections((CAT, 0.7, 0))],
    )
    results = evaluator.evaluate()["bbox"]
    # 2007's AP of dogs: a precision of 1/2 at the recalls 0, 0.1 .. 0.5, and 0 at the five above
    assert results["AP50"] == pytest.approx(100 * (1 + 6 / 11 / 2) / 2)
    written = json.loads((voc.parent / "out/inference/toy_voc/results.json").read_text())
    assert written == {"bbox": results}


def test_proposals_have_cocos_recall(voc, cfg):
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    assert type(Trainer.build_evaluator(cfg, "toy_voc")) is ResultsWritingCOCOEvaluator


def test_masks_of_ones_own_network_of_mask_proposals_are_measured(cfg, monkeypatch):
    class Mine(MaskProposalNetwork):
        pass

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Mine", Mine)
    cfg.MODEL.META_ARCHITECTURE = "Mine"
    monkeypatch.setattr(mask_recall, "MaskRecallEvaluator", make := Mock())
    Trainer.build_evaluator(cfg, "any")
    assert [call.args[0] for call in make.call_args_list] == ["any"]


def test_cocos_metrics_on_a_data_set_of_another_evaluation_are_said_to_be(voc, cfg, caplog):
    MetadataCatalog.pop("toy_voc")
    MetadataCatalog.get("toy_voc").set(thing_classes=["cat"], evaluator_type="cityscapes_instance")
    Trainer.build_evaluator(cfg, "toy_voc")
    (told,) = (r.getMessage() for r in caplog.records if r.name == "fpn_d2.evaluation.evaluators")
    assert "toy_voc is registered for the evaluation cityscapes_instance: these are COCO's" in told


def test_a_sound_folder_loads(voc, cfg):
    assert len(build_test_loader(cfg, "toy_voc")) == 2
    (batch, *_) = zip(build_train_loader(cfg), range(1), strict=False)
    assert len(batch[0]) == 2


@pytest.mark.parametrize(
    "away, words",
    [
        (".", r"VOC/ImageSets/Main/test\.txt of data set toy_voc .*DETECTRON2_DATASETS"),
        ("ImageSets/Main/test.txt", r"test\.txt of data set toy_voc does not exist"),
        ("Annotations/b.xml", r"Annotations/b\.xml of data set toy_voc cannot be read"),
        ("JPEGImages/b.jpg", r"image \S*b\.jpg does not exist"),
    ],
)
def test_files_that_are_missing(voc, cfg, away, words):
    (voc / away).rename(voc.parent / "away")
    for build in (build_train_loader, lambda cfg: build_test_loader(cfg, "toy_voc")):
        with pytest.raises(UserError, match=words):
            build(cfg)


@pytest.mark.parametrize(
    "before, after",
    [
        ("</annotation>", ""),
        ("<pose>Left</pose>", ""),
        ("<xmin>11</xmin>", "<xmin>11.5</xmin>"),
        (SIZE, ""),
        ("<name>cat</name>", "<name>cow</name>"),
    ],
)
def test_files_that_cannot_be_evaluated_are_refused_before_the_training(voc, cfg, before, after):
    path = voc / "Annotations/b.xml"
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(UserError, match=r"data set toy_voc (in \S*VOC )?cannot be read"):
        build_train_loader(cfg)


class Listing(DatasetEvaluator):
    metric_names = ["mine/AP"]


class Calling(ResultsWritingCOCOEvaluator):
    def metric_names(self):
        return ["mine/AP"]


@pytest.mark.parametrize("evaluator", [Listing(), Calling.__new__(Calling)])
def test_what_somebody_elses_evaluator_reports_is_not_known(evaluator):
    assert metric_names(CfgNode(), "toy_voc", evaluator) is None
