"""A panoptic network finds objects and segments, and all of it is evaluated."""

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, masked_content, write_coco
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from PIL import Image
from random_detectors import SMALL_SEGMENTOR

from fpn_d2 import load_config
from fpn_d2.engine import Trainer
from fpn_d2.evaluation import ResultsWritingCOCOEvaluator, metric_names

OPTS = {
    **SMALL_SEGMENTOR,
    "MODEL.META_ARCHITECTURE": "PanopticFPN",
    "MODEL.MASK_ON": True,
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2"],
    "MODEL.RPN.IN_FEATURES": ["p2"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8]],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "DATASETS.TEST": ("toy_panoptic",),
}


def quality(*args, **kwargs):
    """What panopticapi would measure."""
    return {part: {"pq": 0.25, "sq": 0.5, "rq": 0.5, "n": 2} for part in ("All", "Things", "Stuff")}


@pytest.fixture
def panopticapi():
    """A stand-in for the package, which is on no package index."""
    package = ModuleType("panopticapi")
    package.__spec__ = ModuleSpec("panopticapi", None)
    package.utils, package.evaluation = ModuleType("utils"), ModuleType("evaluation")
    package.utils.id2rgb = lambda ids: np.stack([ids] * 3, axis=-1).astype(np.uint8)
    package.evaluation.pq_compute = quality
    return package


@pytest.mark.parametrize("has_package", [True, False])
def test_segments_and_objects_are_evaluated(
    has_package, panopticapi, tmp_path, monkeypatch, caplog
):
    modules = {
        "panopticapi": panopticapi,
        "panopticapi.utils": panopticapi.utils,
        "panopticapi.evaluation": panopticapi.evaluation,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module if has_package else None)
    path = write_coco(tmp_path, "zoo", "val", masked_content())
    images, truth = tmp_path / "zoo/images", tmp_path / "truth.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(truth)  # all of it is sky

    def load():
        records = load_coco_json(str(path), str(images), "toy_panoptic")
        return [{**record, "sem_seg_file_name": str(truth)} for record in records]

    DatasetCatalog.register("toy_panoptic", load)
    MetadataCatalog.get("toy_panoptic").set(
        evaluator_type="coco_panoptic_seg",
        json_file=str(path),
        image_root=str(images),
        panoptic_json=str(path),
        panoptic_root=str(images),
        stuff_classes=["sky", "sea"],
        stuff_dataset_id_to_contiguous_id={92: 0, 93: 1},
        ignore_label=255,
    )
    options = {**OPTS, "OUTPUT_DIR": str(tmp_path)}
    cfg = load_config("", [word for option in options.items() for word in option])
    model = build_model(cfg).eval()
    model.sem_seg_head.predictor.bias.data[0] = 1e6  # and all is found as sky
    results = Trainer.test(cfg, model)
    names = metric_names(cfg, "toy_panoptic", Trainer.build_evaluator(cfg, "toy_panoptic"))
    assert {f"{task}/{name}" for task in results for name in results[task]} == set(names)
    written = json.loads((tmp_path / "inference/toy_panoptic/results.json").read_text())
    assert set(written) == set(results) >= {"sem_seg", "bbox", "segm"}
    assert written["sem_seg"]["mIoU"] == 100
    assert results.get("panoptic_seg", {}).get("PQ_st") == (25 if has_package else None)
    assert ("PQ is left out" in caplog.text) is not has_package
    assert "these are COCO's metrics" not in caplog.text
    assert (tmp_path / "inference/toy_panoptic/predictions.json").exists() is has_package
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"  # it has no segments
    assert type(Trainer.build_evaluator(cfg, "toy_panoptic")) is ResultsWritingCOCOEvaluator
    assert "for the evaluation coco_panoptic_seg: these are COCO's metrics" in caplog.text
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    del MetadataCatalog.get("toy_panoptic").evaluator_type  # data of objects
    assert type(Trainer.build_evaluator(cfg, "toy_panoptic")) is ResultsWritingCOCOEvaluator
