"""results.json has the recall worked out by hand, and null for a metric without a value."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from coco_files import coco_content, coco_image, coco_object, write_files
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes

from fpn_d2 import UserError
from fpn_d2.data.datasets import register_folders
from fpn_d2.evaluation import (
    ResultsWritingCOCOEvaluator,
    build_evaluator,
    load_ground_truth,
    metric_names,
)

# Two objects of 40 x 40 and 60 x 30 pixels: "medium", since 32^2 < 1600 < 1800 < 96^2.
OBJECTS = [[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 120.0, 90.0]]
BACKGROUND = [150.0, 10.0, 190.0, 50.0]


def evaluator_of(name, image_ids, annotations, folder):
    """Register images of 200 x 200 pixels with one class by this name; return their evaluator."""
    images = [coco_image(number, 200, 200) for number in image_ids]
    path = folder / "instances.json"
    path.write_text(json.dumps(coco_content(images, annotations, "thing")))
    register_coco_instances(name, {}, str(path), str(folder))
    DatasetCatalog.get(name)
    return ResultsWritingCOCOEvaluator(name, output_dir=str(folder / "out"))


def annotation(number, image_id, corners, **more):
    x0, y0, x1, y1 = corners
    return coco_object(number, image_id, [x0, y0, x1 - x0, y1 - y0], **more)


def measure(evaluator, outputs):
    """Evaluate a model's outputs, which are given by image id; return the results."""
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()


@pytest.fixture
def evaluate(tmp_path):
    """``evaluate(name, instances)``: the results on one image with both objects, as returned and
    as written to results.json."""
    annotations = [annotation(i, 7, corners) for i, corners in enumerate(OBJECTS, start=1)]
    evaluator = evaluator_of("two_objects", [7], annotations, tmp_path)

    def call(name, instances):
        results = measure(evaluator, {7: {name: instances}})
        return results, json.loads(Path(tmp_path, "out", "results.json").read_text())

    return call


def proposals(ranked):
    """Make proposals with these boxes at these ranks (from 1 on), and background between them."""
    boxes = [ranked.get(rank, BACKGROUND) for rank in range(1, max(ranked) + 1)]
    found = Instances((200, 200))
    found.proposal_boxes = Boxes(torch.tensor(boxes))
    found.objectness_logits = torch.arange(len(boxes), 0, -1).float()
    return found


def test_recall_counts_the_first_10_30_100_300_and_1000(evaluate):
    _, written = evaluate("proposals", proposals({12: OBJECTS[0], 301: OBJECTS[1]}))
    recall = written["box_proposals"]
    # IoU 1: found at all ten thresholds, as soon as the rank is within the limit
    numbers = [recall[f"AR@{limit}"] for limit in (10, 30, 100, 300, 1000)]
    assert numbers == pytest.approx([0, 50, 50, 50, 100])


@pytest.mark.parametrize("rank, limits", [(10, 10), (11, 30), (30, 30), (31, 100)])
def test_the_last_rank_of_a_limit_counts(evaluate, rank, limits):
    _, written = evaluate("proposals", proposals({rank: OBJECTS[0]}))
    found = [n for n in (10, 30, 100, 300) if written["box_proposals"][f"AR@{n}"] > 0]
    assert found[0] == limits


def test_recall_is_averaged_over_ious_from_half_to_095(evaluate):
    shifted = [10.0, 10.0, 50.0, 40.0]  # 30 of the object's 40 rows: IoU 0.75
    _, written = evaluate("proposals", proposals({1: shifted}))
    # found at 0.5, 0.55, ..., 0.75, six of ten thresholds, and one object of two
    assert written["box_proposals"]["AR@10"] == pytest.approx(100 * 6 / 10 / 2)


def test_objects_of_images_without_proposals_are_missed(tmp_path):
    objects = [annotation(i, i, OBJECTS[0]) for i in (1, 2)]
    evaluator = evaluator_of("two_images", [1, 2], objects, tmp_path)
    perfect = proposals({1: OBJECTS[0]})
    outputs = {1: {"proposals": perfect}, 2: {"proposals": perfect[:0]}}
    recall = measure(evaluator, outputs)["box_proposals"]
    names = ("AR@10", "AR@100", "AR@1000", "ARm@100")
    assert [recall[name] for name in names] == pytest.approx([50] * 4)
    saved = pickle.loads((tmp_path / "out" / "box_proposals.pkl").read_bytes())
    assert [len(boxes) for boxes in saved["boxes"]] == [1, 0]


def test_sizes_without_objects_are_null(evaluate):
    results, written = evaluate("proposals", proposals({1: OBJECTS[0]}))
    recall = written["box_proposals"]
    assert (recall["ARs@100"], recall["ARl@1000"]) == (None, None)
    assert recall["ARm@100"] == pytest.approx(50)
    assert results["box_proposals"]["ARs@100"] != results["box_proposals"]["ARs@100"]  # NaN


def detections(boxes):
    found = Instances((200, 200))
    found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    found.scores = torch.full((len(boxes),), 0.9)
    found.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
    return found


def test_annotations_may_be_numbered_from_zero(tmp_path):
    annotations = [annotation(i, 7, corners) for i, corners in enumerate(OBJECTS)]
    evaluator = evaluator_of("from_zero", [7], annotations, tmp_path)
    results = measure(evaluator, {7: {"instances": detections(OBJECTS)}})
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_the_aps_of_detections_are_written_and_null_for_a_network_that_finds_nothing(evaluate):
    _, written = evaluate("instances", detections(OBJECTS))
    assert written["bbox"]["AP"] == pytest.approx(100)
    assert written["bbox"]["APm"] == pytest.approx(100)
    assert (written["bbox"]["APs"], written["bbox"]["APl"]) == (None, None)
    _, written = evaluate("instances", detections([]))
    assert set(written["bbox"].values()) == {None}


@pytest.mark.parametrize("mask", [{}, {"segmentation": []}, {"segmentation": [[]]}])
def test_the_mask_of_a_crowd_that_has_none_is_its_box(tmp_path, mask):
    thing = annotation(1, 7, OBJECTS[0], segmentation=[[10, 10, 50, 10, 50, 50, 10, 50]])
    crowd = annotation(2, 7, OBJECTS[1], iscrowd=1, **mask)
    evaluator = evaluator_of(tmp_path.name, [7], [thing, crowd], tmp_path)
    found = detections(OBJECTS[::-1])  # the one in the crowd comes first, and counts neither way
    found.pred_masks = torch.zeros(2, 200, 200, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(found.pred_masks, found.pred_boxes.tensor.int(), strict=True):
        mask[y0:y1, x0:x1] = True
    assert measure(evaluator, {7: {"instances": found}})["segm"]["AP"] == pytest.approx(100)


# Data sets without an annotation file, for which Detectron2 writes one.


@pytest.fixture
def mine():
    """The records of a data set that is registered from Python: one image with one object."""
    annotation = {"bbox": OBJECTS[0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": "a.png", "image_id": 7, "height": 200, "width": 200}
    records = [{**record, "annotations": [annotation]}]
    DatasetCatalog.register("mine", lambda: records)
    MetadataCatalog.get("mine").thing_classes = ["thing"]
    return records


def ap_of(box, folder):
    evaluator = ResultsWritingCOCOEvaluator("mine", output_dir=folder and str(folder))
    return measure(evaluator, {7: {"instances": detections([box])}})["bbox"]["AP"]


@pytest.mark.usefixtures("mine")
def test_a_data_set_without_a_file_needs_no_folder():
    assert ap_of(OBJECTS[0], None) == pytest.approx(100)


def test_nothing_that_an_earlier_run_has_converted_is_believed(mine, tmp_path):
    stale = {"images": [{"id": 7}], "categories": [{"id": 0, "name": "thing"}], "annotations": []}
    (tmp_path / "mine_coco_format.json").write_text(json.dumps(stale))
    assert ap_of(OBJECTS[0], tmp_path) == pytest.approx(100)
    mine[0]["annotations"][0]["bbox"] = OBJECTS[1]  # corrected, and evaluated in the same folder
    assert ap_of(OBJECTS[0], tmp_path) == pytest.approx(0)
    assert ap_of(OBJECTS[1], tmp_path) == pytest.approx(100)
    assert MetadataCatalog.get("mine").get("json_file") is None


def test_evaluating_twice_leaves_the_keypoints_where_they_are(mine, tmp_path):
    mine[0]["annotations"][0]["keypoints"] = [15.5, 20.5, 2]
    for _ in range(2):  # COCO's file has pixel indices: half a pixel less
        evaluator = ResultsWritingCOCOEvaluator("mine", output_dir=str(tmp_path))
        assert evaluator._coco_api.anns[1]["keypoints"] == [15.0, 20.0, 2]
        assert DatasetCatalog.get("mine") is mine
    assert mine[0]["annotations"][0]["keypoints"] == [15.5, 20.5, 2]


def test_a_data_set_without_names_of_classes(mine, tmp_path):
    del MetadataCatalog.get("mine").thing_classes
    with pytest.raises(UserError, match=r"data set mine has no names of classes.*thing_classes"):
        ResultsWritingCOCOEvaluator("mine", output_dir=str(tmp_path))


def test_the_truth_of_a_folder_is_made_where_its_cache_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    zoo = tmp_path / "data" / "zoo"
    files = {"data.yaml": "train: .\nnames: [cat]\n", "a.txt": "0 0.5 0.5 0.5 0.5\n"}
    write_files(zoo, {**files, "a.png": (40, 20)})
    register_folders(str(tmp_path / "data"))
    truth, folder = load_ground_truth("zoo_train")
    assert (folder, truth.anns[1]["bbox"]) == (str(zoo), [10, 5, 20, 10])


def test_rotated_boxes(tmp_path):
    pytest.importorskip("detectron2._C")  # rotated IoU
    boxes = [[50.0, 50.0, 60.0, 20.0, 30.0], [120.0, 80.0, 50.0, 40.0, -45.0]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0, "iscrowd": 0}
        for box in boxes
    ]
    record = {"file_name": "a.png", "image_id": 7, "width": 200, "height": 200}
    DatasetCatalog.register("rotated", lambda: [{**record, "annotations": annotations}])
    MetadataCatalog.get("rotated").thing_classes = ["thing"]
    cfg = get_cfg()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    found = Instances((200, 200))
    found.pred_boxes = RotatedBoxes(boxes[:1])
    found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    for _ in range(2):  # once more, as in a training
        evaluator = build_evaluator(cfg, "rotated", str(tmp_path))
        measure(evaluator, {7: {"instances": found}})
    written = json.loads(Path(tmp_path, "results.json").read_text())["bbox"]
    # One of two objects: the precision is 1 up to a recall of a half, 51 of COCO's 101 points.
    assert written["AP"] == pytest.approx(100 * 51 / 101)
    assert "bbox/AP50" in metric_names(cfg, "rotated", evaluator)
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    with pytest.raises(UserError, match="RRPN proposes rotated boxes, whose recall"):
        build_evaluator(cfg, "rotated", str(tmp_path))
