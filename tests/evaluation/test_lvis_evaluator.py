"""A data set in LVIS's format is measured as LVIS does, whose classes count from 1."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from fpn_d2 import UserError
from fpn_d2.engine import Trainer
from fpn_d2.evaluation import ResultsWritingLVISEvaluator, metric_names
from fpn_d2.export.accuracy import judge_int8
from fpn_d2.inference.names import classes_of
from fpn_d2.inspection.evaluated_sets import analyze_run

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
CLASSES = {1: ("cat", "f"), 2: ("dog", "r")}  # one found often in LVIS, one rarely


@pytest.fixture
def cfg(tmp_path, row_config):
    """The config of a detector on toy_lvis: two images, each with a cat and a dog."""
    images, annotations = [], []
    for number in (1, 2):
        size = {"width": 120, "height": 100}
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        images.append({"id": number, **size, **lists})
        for category in CLASSES:
            box = {"bbox": [50 * category - 40, 10, 40, 40], "area": 1600}
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append({**ids, **box})
    categories = [{"id": i, "name": n, "frequency": f} for i, (n, f) in CLASSES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    DatasetCatalog.register("toy_lvis", lambda: images)
    names = [name for name, _ in CLASSES.values()]
    metadata = {"json_file": str(tmp_path / "lvis.json"), "evaluator_type": "lvis"}
    metadata |= {"image_root": str(tmp_path), "thing_classes": names}
    MetadataCatalog.get("toy_lvis").set(**metadata)
    words = ["DATASETS.TEST", ("toy_lvis",), "OUTPUT_DIR", str(tmp_path / "out")]
    return row_config(ROW, *words, "MODEL.ROI_HEADS.NUM_CLASSES", 2)


def test_the_metrics_of_lvis(cfg, tmp_path):
    pytest.importorskip("lvis")
    evaluator = Trainer.build_evaluator(cfg, "toy_lvis")
    assert type(evaluator) is ResultsWritingLVISEvaluator
    evaluator.reset()
    for number in (1, 2):  # every cat is found, and no dog
        found = Instances((100, 120))
        found.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        evaluator.process([{"image_id": number}], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    assert (results["AP"], results["APf"], results["APr"]) == pytest.approx((50, 100, 0))
    assert [f"bbox/{name}" for name in results] == metric_names(cfg, "toy_lvis", evaluator)
    written = json.loads((tmp_path / "out/inference/toy_lvis/results.json").read_text())
    assert written["bbox"]["AP"] == pytest.approx(50)
    assert not hasattr(np, "float")  # which lvis needs


def measured(evaluator, count):
    """Return the metrics where ``count`` wrong cats score higher than each dog, which is right."""
    evaluator.reset()
    for number in (1, 2):
        found = Instances((100, 120))
        wrong = torch.tensor([[60.0, 60.0, 70.0, 70.0]]).repeat(count, 1)
        found.pred_boxes = Boxes(torch.cat([wrong, torch.tensor([[60.0, 10.0, 100.0, 50.0]])]))
        found.scores = torch.tensor([0.9] * count + [0.1])
        found.pred_classes = torch.tensor([0] * count + [1])
        evaluator.process([{"image_id": number}], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


def test_a_metric_without_objects_is_not_a_number(cfg, tmp_path):
    pytest.importorskip("lvis")
    results = measured(Trainer.build_evaluator(cfg, "toy_lvis"), 3)
    assert math.isnan(results["APs"])
    assert math.isnan(results["APc"])
    written = json.loads((tmp_path / "out/inference/toy_lvis/results.json").read_text())
    assert written["bbox"]["APs"] is None


@pytest.mark.parametrize("limit, count, ap", [(100, 299, 100), (100, 300, 0), (1000, 400, 100)])
def test_more_detections_of_an_image_count(cfg, limit, count, ap):
    pytest.importorskip("lvis")
    cfg.defrost()
    cfg.TEST.DETECTIONS_PER_IMAGE = limit
    assert measured(Trainer.build_evaluator(cfg, "toy_lvis"), count)["APr"] == pytest.approx(ap)


def test_objects_of_an_image_without_proposals_are_missed(cfg, tmp_path):
    pytest.importorskip("lvis")
    evaluator = ResultsWritingLVISEvaluator("toy_lvis", str(tmp_path / "out"))
    evaluator.reset()
    boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0], [60.0, 10.0, 100.0, 50.0]])
    for number, count in ((1, 2), (2, 0)):
        found = Instances((100, 120), proposal_boxes=Boxes(boxes[:count]))
        found.objectness_logits = torch.zeros(count)
        evaluator.process([{"image_id": number}], [{"proposals": found}])
    assert evaluator.evaluate()["box_proposals"]["AR@100"] == pytest.approx(50)


def test_the_ids_of_its_classes(cfg):
    classes = classes_of(cfg)
    assert (classes.names, classes.category_ids) == (["cat", "dog"], [1, 2])


def test_its_package_is_missing(cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(UserError, match=r"toy_lvis is LVIS's.*python -m pip install lvis"):
        Trainer.build_evaluator(cfg, "toy_lvis")


def test_what_measures_by_cocos_metrics_refuses_it(cfg, tmp_path):
    folder = tmp_path / "out/inference/toy_lvis"
    folder.mkdir(parents=True)
    (folder / "lvis_instances_results.json").write_text("[]")
    with pytest.raises(UserError, match="toy_lvis holds LVIS's detections, and this reads COCO's"):
        analyze_run(str(tmp_path / "out"), cfg)
    with pytest.raises(UserError, match="toy_lvis is LVIS's; name another set"):
        judge_int8(cfg, None, None, 1)
