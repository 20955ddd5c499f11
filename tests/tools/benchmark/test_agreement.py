"""Detections compared by hand, and a model compared with itself."""

import pytest
import torch
from benchmark import agreement
from benchmark.agreement import benchmark_agreement, check_agreement
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer
from fpn_d2.experiments.benchmark_tables import benchmark_table

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"


class Evaluator:
    """Its AP is the number of detections seen, less two; without any it is missing or NaN."""

    def __init__(self, name, output_dir):
        assert output_dir is None
        self.seen, self.none = 0, {}

    def reset(self):
        pass

    def process(self, inputs, outputs):
        self.seen += len(outputs[0]["instances"])
        self.none = {"bbox": {"AP": float("nan")}} if inputs[0]["image_id"] == 9 else {}

    def evaluate(self, images):
        assert images in ([7, 8], [7, 9])
        return {"bbox": {"AP": self.seen - 1.999}} if self.seen else self.none


def detect(count):
    """Return a detector that finds this many boxes."""
    corner = 20.0 * torch.arange(count)
    zeros = torch.zeros(count)
    boxes = Boxes(torch.stack([corner, zeros, corner + 10, zeros + 10], dim=1))
    found = Instances((100, 100), pred_boxes=boxes, pred_classes=torch.ones(count))
    return lambda inputs: [{"instances": found}]


@pytest.mark.parametrize("last", [8, 9])
@pytest.mark.parametrize(("plain", "ready", "matched"), [(3, 2, 2 / 3), (0, 0, None), (0, 1, 0.0)])
def test_detections_are_compared_by_hand(plain, ready, matched, last, row_config, monkeypatch):
    monkeypatch.setattr(agreement, "ResultsWritingCOCOEvaluator", Evaluator)
    monkeypatch.setattr(agreement, "head_errors", lambda *_: (0.5, 0.25))
    batches = [[{"image_id": 7}], [{"image_id": last}]]
    models = detect(plain), detect(ready)
    share, found = agreement._compare_detections(row_config(ROW), *models, batches)
    assert share == 0.25
    assert found == {
        "images": 2,
        "detections": 2 * plain,
        "matched_share": matched if matched is None else pytest.approx(matched, abs=1e-5),
        "head_max_error": 0.5,
        "AP": 2 * ready - 2 if ready else None,
        "baseline_AP": 2 * plain - 2 if plain else None,
    }


@pytest.mark.parametrize(
    "variant",
    [
        "fp32",
        pytest.param("fp32 by openvino", marks=pytest.mark.slow),
        pytest.param("int8 by openvino", marks=pytest.mark.slow),
    ],
)
def test_a_model_agrees_with_itself(
    repo, row_config, tiny_opts, tmp_path, run_here, monkeypatch, variant
):
    for package in ("openvino", "nncf") if variant != "fp32" else ():
        pytest.importorskip(package)
    monkeypatch.setattr(agreement, "prepared_variants_of", lambda device: [variant])
    opts = [*tiny_opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "DATALOADER.NUM_WORKERS", "1"]
    torch.manual_seed(0)
    SafeCheckpointer(build_model(row_config(ROW, *opts)), str(tmp_path)).save("model")
    config, weights = repo / "configs" / f"{ROW}.yaml", str(tmp_path / "model.pth")
    results = run_here(benchmark_agreement, config, weights, 2, opts)
    result = results[0]
    assert result["variant"] == variant
    assert result["images"] == 2
    assert result["detections"] > 0
    if "int8" not in variant:
        assert result["matched_share"] > 0.9  # random scores are nearly tied
    # random features have no bounds, and int8 takes its ranges from other features
    assert (result["head_max_error"] > 1e-3) == ("int8" in variant)
    line = benchmark_table(results).splitlines()[-len(results)]
    assert line.replace(" ", "").startswith(
        f"|{variant}|2|{result['detections']}|".replace(" ", "")
    )
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("row", ["RPN/rpn_R_18_FPN", "Fast-RCNN/fast_rcnn_R_18_FPN"])
def test_a_model_without_a_box_head_on_its_proposals_is_refused(row, repo):
    with pytest.raises(UserError, match=r"is no Faster R-CNN with a box head.*give one"):
        next(benchmark_agreement("cpu", repo / "configs" / "quick" / f"{row}.yaml", ""))


@pytest.mark.parametrize(
    "row, more, words",
    [
        (ROW, "", "none.pth"),
        (ROW, "DATASETS: {TEST: [gone_val]}", "'gone_val', which is not registered"),
        ("quick/RPN/rpn_R_18_FPN", "", "is no Faster R-CNN"),
    ],
)
def test_what_is_refused_before_the_other_tasks(repo, tmp_path, row, more, words):
    config = tmp_path / "row.yaml"
    config.write_text(f"_BASE_: {repo}/configs/{row}.yaml\n{more}\n")
    with pytest.raises(UserError, match=words):
        check_agreement(config, str(tmp_path / "none.pth"))
