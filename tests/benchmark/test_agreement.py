"""Matching detections by hand, and a model with itself."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fpn_d2.benchmark import benchmark_agreement, benchmark_table
from fpn_d2.benchmark.agreement import match_detections
from fpn_d2.checkpoint import FPNCheckpointer


def detections(*boxes):
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor([box[:4] for box in boxes]).reshape(-1, 4))
    found.pred_classes = torch.tensor([int(box[4]) for box in boxes])
    return found


def test_pairs_are_one_to_one_of_one_class_and_close():
    expected = detections([0.0, 0, 10, 10, 1], [0.0, 0, 10, 10, 2], [50.0, 50, 60, 60, 1])
    assert match_detections(expected, expected, 0.05) == 3
    twice = detections([0.0, 0, 10, 10, 1], [0.01, 0, 10, 10, 1])
    assert match_detections(twice, expected, 0.05) == 1
    assert match_detections(detections([50.0, 50, 60, 60.04, 1]), expected, 0.05) == 1
    assert match_detections(detections([50.0, 50, 60, 60.06, 1]), expected, 0.05) == 0
    assert match_detections(detections([50.0, 50, 60, 60, 2]), expected, 0.05) == 0
    assert match_detections(detections(), expected, 0.05) == 0


def test_a_model_agrees_with_itself(repo, row_config, tiny_opts, tmp_path):
    opts = [*tiny_opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    row = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
    torch.manual_seed(0)
    FPNCheckpointer(build_model(row_config(row, *opts)), str(tmp_path)).save("model")
    config, weights = repo / "configs" / f"{row}.yaml", str(tmp_path / "model.pth")
    results = benchmark_agreement(config, weights, "cpu", 1, images=2, opts=opts)
    result = results[0]
    assert result["variant"] == "fp32"
    assert result["images"] == 2
    assert result["detections"] > 0
    assert result["matched_share"] > 0.9  # random scores are nearly tied
    assert result["head_max_error"] < 1e-3
    assert result["AP"] == pytest.approx(result["baseline_AP"], abs=0.5)
    table = benchmark_table(results)
    agreement = table.splitlines()[-len(results)]
    assert agreement.startswith(f"| fp32 | 2 | {result['detections']} | ")
