"""results.json has the recall worked out by hand, and null for a metric without a value."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from fpn_d2.evaluation import ResultsWritingCOCOEvaluator

# Two objects of 40 x 40 pixels: "medium", since 32^2 < 1600 < 96^2.
OBJECTS = [[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 100.0, 100.0]]
BACKGROUND = [150.0, 10.0, 190.0, 50.0]


@pytest.fixture
def evaluator(tmp_path):
    """An evaluator of one image of 200 x 200 pixels with two objects."""
    annotations = [
        {"id": i, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 1600.0,
         "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for i, (x0, y0, x1, y1) in enumerate(OBJECTS, start=1)
    ]  # fmt: skip
    content = {
        "info": {},
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": annotations,
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    register_coco_instances("two_objects", {}, str(path), str(tmp_path))
    DatasetCatalog.get("two_objects")
    yield ResultsWritingCOCOEvaluator("two_objects", output_dir=str(tmp_path / "out"))
    DatasetCatalog.remove("two_objects")
    MetadataCatalog.remove("two_objects")


@pytest.fixture
def evaluate(evaluator, tmp_path):
    """``evaluate(name, instances)``: the results and what was written of them."""

    def call(name, instances):
        evaluator.reset()
        evaluator.process([{"image_id": 7, "height": 200, "width": 200}], [{name: instances}])
        results = evaluator.evaluate()
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


def test_the_aps_of_detections_are_written_and_null_for_a_network_that_finds_nothing(evaluate):
    _, written = evaluate("instances", detections(OBJECTS))
    assert written["bbox"]["AP"] == pytest.approx(100)
    assert written["bbox"]["APm"] == pytest.approx(100)
    assert (written["bbox"]["APs"], written["bbox"]["APl"]) == (None, None)
    _, written = evaluate("instances", detections([]))
    assert set(written["bbox"].values()) == {None}
