"""Matching detections by hand, and a model with itself."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fpn_d2 import UserError
from fpn_d2.benchmark import benchmark_agreement, benchmark_table, take_turns
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


ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"


def test_a_model_agrees_with_itself(repo, row_config, tiny_opts, tiny_root, tmp_path, monkeypatch):
    opts = [*tiny_opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "DATALOADER.NUM_WORKERS", "1"]
    torch.manual_seed(0)
    FPNCheckpointer(build_model(row_config(ROW, *opts)), str(tmp_path)).save("model")
    config, weights = repo / "configs" / f"{ROW}.yaml", str(tmp_path / "model.pth")
    monkeypatch.setenv("DETECTRON2_DATASETS", tiny_root)  # of the two processes
    results = take_turns(benchmark_agreement, config, weights, "cpu", 1, 2, opts)
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
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("row", ["RPN/rpn_R_18_FPN", "Fast-RCNN/fast_rcnn_R_18_FPN"])
def test_a_model_without_a_box_head_on_its_proposals_is_refused(row, repo):
    with pytest.raises(UserError, match=r"is no Faster R-CNN with a box head.*give one"):
        benchmark_agreement(repo / "configs" / "quick" / f"{row}.yaml", "", "cpu", 1)
