"""Semantic segmentation, whose images have neither ids nor objects, has its own metrics."""

import json

import numpy as np
import pytest
from coco_files import sound_content, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.modeling import build_model
from PIL import Image
from random_detectors import SMALL_SEGMENTOR

from fpn_d2 import UserError, load_config
from fpn_d2.config_checks import check_registered
from fpn_d2.engine import Trainer
from fpn_d2.evaluation import build_evaluator, load_ground_truth, metric_names

OPTS = {
    **SMALL_SEGMENTOR,
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "DATASETS.TEST": ("stuff",),
}


def config(*more):
    return load_config("", [word for option in OPTS.items() for word in option] + [*more])


def test_the_metrics_of_semantic_segmentation(tmp_path):
    for kind, size in (("image", (40, 32, 3)), ("truth", (40, 32))):  # all of it is sky
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / kind / "a.png")
    places = [str(tmp_path / kind) for kind in ("truth", "image")]
    DatasetCatalog.register("stuff", lambda: load_sem_seg(*places, image_ext="png"))
    MetadataCatalog.get("stuff").set(stuff_classes=["sky", "sea"], ignore_label=255)
    cfg = config("OUTPUT_DIR", str(tmp_path))
    model = build_model(cfg).eval()
    for place, share in ((0, 100), (1, 0)):  # all is found as sky, and as sea
        model.sem_seg_head.predictor.bias.data[:] = 0
        model.sem_seg_head.predictor.bias.data[place] = 1e6
        results = Trainer.test(cfg, model)["sem_seg"]
        assert results["mIoU"] == results["pACC"] == share
        names = metric_names(cfg, "stuff", Trainer.build_evaluator(cfg, "stuff"))
        assert {f"sem_seg/{name}" for name in results} == set(names)
        written = json.loads((tmp_path / "inference/stuff/results.json").read_text())
        assert written["sem_seg"]["mIoU"] == share


@pytest.mark.parametrize(
    "name, metadata, number, fault",
    [
        ("s1", {"stuff_classes": ["sky", "sea"]}, 2, "has no ignore_label"),
        ("s2", {"ignore_label": 255}, 2, "has no stuff_classes"),
        ("s3", {"stuff_classes": ["sky"], "ignore_label": 255}, 2, "NUM_CLASSES is 2, .*only 1"),
        ("s4", {"stuff_classes": ["sky"], "ignore_label": 255}, 1, "sem_seg_file_name"),
    ],
)
def test_what_the_evaluator_lacks_is_named(name, metadata, number, fault, tmp_path):
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png"}])
    MetadataCatalog.get(name).set(**metadata)
    with pytest.raises(UserError, match=fault):
        build_evaluator(config("MODEL.SEM_SEG_HEAD.NUM_CLASSES", number), name, str(tmp_path))


def test_tools_of_objects_say_that_there_are_none():
    MetadataCatalog.get("stuff").set(evaluator_type="sem_seg")
    with pytest.raises(UserError, match="data set stuff is for semantic segmentation"):
        load_ground_truth("stuff")


def test_objects_beside_segments_are_looked_at(tmp_path):
    path = write_coco(tmp_path, "zoo", "val", sound_content())
    values = {"evaluator_type": "sem_seg", "json_file": str(path), "image_root": str(tmp_path)}
    MetadataCatalog.get("stuff").set(**values)
    truth, _ = load_ground_truth("stuff")
    assert len(truth.anns) == 3


@pytest.mark.parametrize(
    "key, value",
    [("IN_FEATURES", "['p2','p9']"), ("IN_FEATURES", "[]"), ("NORM", "Nope"), ("NAME", "Nope")],
)
def test_keys_of_the_head_are_checked(key, value):
    def build():
        cfg = config(f"MODEL.SEM_SEG_HEAD.{key}", value)
        check_registered(cfg)
        build_model(cfg)

    with pytest.raises(UserError, match=rf"MODEL\.SEM_SEG_HEAD\.{key} "):
        build()
