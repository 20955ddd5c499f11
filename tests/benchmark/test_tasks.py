"""Each task of the benchmark at a size that takes a second."""

import math

import pytest

from fpn_d2.benchmark import (
    benchmark_inference,
    benchmark_mask_proposals,
    benchmark_pooling,
    benchmark_training,
    detectors,
    operators,
)
from fpn_d2.devices import has_bfloat16


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for module in (detectors, operators):
        monkeypatch.setattr(module, "HEIGHT", 128)
        monkeypatch.setattr(module, "WIDTH", 160)
    monkeypatch.setattr(detectors, "CONFIG", "quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml")
    canonical = ["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", "224"]  # stock heads have no other
    monkeypatch.setattr(detectors, "STOCK", detectors.STOCK + canonical)
    monkeypatch.setattr(
        detectors,
        "load_config",
        lambda path, opts, f=detectors.load_config: f(path, opts + canonical),
    )


def variants():
    return ["fp32", "bf16"] if has_bfloat16("cpu") else ["fp32"]


def check(rows):
    for row in rows:
        assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"], rel=0.02)
        assert row["spread"][0] <= row["seconds"] <= row["spread"][1]
    return {(row["variant"], row["baseline"]): row for row in rows}


def test_inference(repo, monkeypatch):
    monkeypatch.setattr(detectors, "_others", lambda device: {"torchvision": lambda: None})
    rows = check(benchmark_inference(repo / "configs", "cpu", 1))
    assert set(rows) == {(v, b) for v in variants() for b in ("detectron2", "torchvision")}
    assert rows["fp32", "detectron2"]["max_error"] < 1e-4
    assert rows["fp32", "torchvision"]["max_error"] is None
    for variant in variants()[1:]:
        assert 1e-4 < rows[variant, "detectron2"]["max_error"] < 0.2


def test_exported_models_are_compared_in_their_precision():
    assert detectors._comparable("openvino bf16", "bf16")
    assert not detectors._comparable("openvino bf16", "fp32")
    assert not detectors._comparable("onnxruntime fp32", "bf16")
    assert detectors._comparable("detectron2 AMP", "bf16")


def test_training(repo):
    rows = check(benchmark_training(repo / "configs", "cpu", 1))
    assert set(rows) == {(v, "detectron2") for v in variants()}
    assert rows["fp32", "detectron2"]["max_error"] < 1e-4
    assert all(math.isfinite(row["max_error"]) for row in rows.values())


def test_pooling():
    rows = check(benchmark_pooling("cpu", 1, count=50))
    ways = ("forward", "forward and backward")
    assert set(rows) == {(f"{v} {way}", "detectron2") for v in variants() for way in ways}
    assert all(rows[f"fp32 {way}", "detectron2"]["max_error"] < 1e-4 for way in ways)


def test_mask_proposals(repo):
    rows = check(benchmark_mask_proposals(repo / "configs", "cpu", 1))
    assert {variant for variant, _ in rows} == {
        f"{v} {w}" for v in variants() for w in ("5x5", "dual")
    }
