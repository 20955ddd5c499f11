"""Matching detections by hand, and a model with itself."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fpn_d2 import UserError
from fpn_d2.benchmark import agreement, benchmark_agreement, benchmark_table, take_turns
from fpn_d2.benchmark.agreement import match_detections
from fpn_d2.checkpoint import SafeCheckpointer


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


@pytest.mark.parametrize(
    ("ap", "told"), [(61.449, 61.45), (0.0, 0.0), (float("nan"), None), (None, None)]
)
def test_an_ap_that_there_is_not(ap, told):
    assert agreement._rounded(ap) == told


class Evaluator:
    """Its AP is the number of detections that it has seen."""

    def __init__(self, name, output_dir):
        assert output_dir is None
        self.seen = 0

    def reset(self):
        pass

    def process(self, inputs, outputs):
        self.seen += len(outputs[0]["instances"])

    def evaluate(self, images):
        assert images == [7, 8]
        return {"bbox": {"AP": float(self.seen)}} if self.seen else {}


@pytest.mark.parametrize(("plain", "ready", "share"), [(3, 2, 2 / 3), (0, 0, None), (0, 1, 0.0)])
def test_detections_are_compared_by_hand(plain, ready, share, row_config, monkeypatch):
    boxes = [[20.0 * i, 0, 20.0 * i + 10, 10, 1] for i in range(3)]
    monkeypatch.setattr(agreement, "ResultsWritingCOCOEvaluator", Evaluator)
    monkeypatch.setattr(agreement, "head_errors", lambda *_: (0.5, 0.25))
    batches = [[{"image_id": 7}], [{"image_id": 8}]]
    found = agreement._compare_detections(
        row_config(ROW),
        lambda inputs: [{"instances": detections(*boxes[:plain])}],
        lambda inputs: [{"instances": detections(*boxes[:ready])}],
        batches,
    )
    assert found["images"] == 2
    assert found["detections"] == 2 * plain
    assert found["matched_share"] == (None if share is None else pytest.approx(share, abs=1e-5))
    assert (found["head_max_error"], found["share"]) == (0.5, 0.25)
    assert found["baseline_AP"] == (2 * plain or None)
    assert found["AP"] == (2 * ready or None)


ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"


def test_a_model_agrees_with_itself(repo, row_config, tiny_opts, tiny_root, tmp_path, monkeypatch):
    opts = [*tiny_opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "DATALOADER.NUM_WORKERS", "1"]
    torch.manual_seed(0)
    SafeCheckpointer(build_model(row_config(ROW, *opts)), str(tmp_path)).save("model")
    config, weights = repo / "configs" / f"{ROW}.yaml", str(tmp_path / "model.pth")
    monkeypatch.setenv("DETECTRON2_DATASETS", tiny_root)  # of the two processes
    results = take_turns(benchmark_agreement, config, weights, "cpu", 1, 2, opts)
    result = results[0]
    assert result["variant"] == "fp32"
    assert result["images"] == 2
    assert result["detections"] > 0
    assert result["matched_share"] > 0.9  # random scores are nearly tied
    assert result["head_max_error"] < 1e-3
    table = benchmark_table(results)
    line = table.splitlines()[-len(results)]
    assert line.startswith(f"| fp32 | 2 | {result['detections']} | ")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("row", ["RPN/rpn_R_18_FPN", "Fast-RCNN/fast_rcnn_R_18_FPN"])
def test_a_model_without_a_box_head_on_its_proposals_is_refused(row, repo):
    with pytest.raises(UserError, match=r"is no Faster R-CNN with a box head.*give one"):
        benchmark_agreement(repo / "configs" / "quick" / f"{row}.yaml", "", "cpu", 1)
