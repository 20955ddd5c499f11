"""Faster R-CNN's tasks and its profile, with a ResNet-18 on an image that takes a second."""

import functools
import shutil
import time
from unittest.mock import Mock

import pytest
import torch
from benchmark import detectors, profiling
from benchmark.detectors import benchmark_inference, benchmark_parts, benchmark_training
from benchmark.networks import STOCK_SIZE, Networks, image_record, stock_model
from benchmark.precisions import matmul_rates, prepared_variants_of, variants_of
from benchmark.profiling import profile_detectors
from detectron2.modeling import build_model
from stage_convs import StageConvs

from fpn_d2.engine import Trainer
from fpn_d2.utils.modules import settle_norms

SIZE = (128, 160)


class Slow(torch.nn.Module):
    """In place of another package's detector: runs this backbone, and takes 50 ms."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        time.sleep(0.05)
        self.backbone(images[0][None])  # not normalized, so that its features differ


@pytest.fixture
def small_networks(request, row_config, monkeypatch):
    """Put ResNet-18, or the network that a test names, in the place of ResNet-50, with which
    torchvision's detector is made."""
    bottom_up = getattr(request, "param", "build_resnet_backbone")

    def build(device, size):
        opts = ["MODEL.WEIGHTS", "", *STOCK_SIZE, "MODEL.FPN.BOTTOM_UP", bottom_up]
        cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", *opts)
        torch.manual_seed(0)
        ours = Trainer.build_model(cfg).eval()
        record = image_record(0, size)
        settle_norms(ours, lambda: ours([record]))
        stock = stock_model(cfg, ours)
        return Networks(cfg, ours, stock, Slow(stock.backbone))

    for module in (detectors, profiling):
        monkeypatch.setattr(module, "build_networks", build)
    monkeypatch.setattr(detectors, "matmul_rates", functools.partial(matmul_rates, size=256))


def test_inference(measure, small_networks, monkeypatch):
    no_module = Mock(side_effect=ImportError("onnx is not installed"))
    monkeypatch.setattr(detectors.torch.onnx, "export", no_module)
    monkeypatch.setattr(detectors, "prepared_variants_of", variants_of)
    rows = measure(benchmark_inference, False, SIZE)
    baselines = ("detectron2", "torchvision")  # memory is not kept here
    assert set(rows) == {(v, b) for v in variants_of("cpu") for b in baselines}
    assert rows["fp32", "detectron2"]["max_error"] < 1e-4
    assert rows["fp32", "torchvision"]["max_error"] > 0.1
    assert 0 < rows["fp32", "detectron2"]["share_of_matmul"] < 2
    assert rows["fp32", "detectron2"]["proposals"] > 100
    for variant in variants_of("cpu")[1:]:
        assert 1e-4 < rows[variant, "detectron2"]["max_error"] < 0.3


@pytest.mark.slow
def test_engines_have_rows_too(measure, small_networks, monkeypatch):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    monkeypatch.setattr(detectors, "variants_of", lambda device: ["fp32"])
    monkeypatch.setattr(detectors.torch.onnx, "export", None)
    rows = measure(benchmark_inference, False, SIZE)
    prepared = [*variants_of("cpu"), *(f"{v} by openvino" for v in (*variants_of("cpu"), "int8"))]
    assert prepared == prepared_variants_of("cpu")
    expected = {(v, b) for v in prepared for b in ("detectron2", "torchvision")}
    assert set(rows) == expected | {("int8 by openvino", v) for v in prepared[:-1]}
    assert rows["fp32 by openvino", "detectron2"]["max_error"] < 1e-4
    assert 1e-4 < rows["int8 by openvino", "detectron2"]["max_error"] < 0.5
    assert rows["int8 by openvino", "detectron2"]["share_of_matmul"] is None


@pytest.mark.slow
def test_parts(measure, small_networks):
    pytest.importorskip("nncf")
    rows = measure(benchmark_parts, SIZE)
    sizes = [f"backbone {p} {n} size" for p in ("float32", "int8") for n in ("any", "one")]
    names = [*sizes, "box_head float32", "box_head int8"]
    assert list(rows) == [(name, "torch") for name in names]
    for (name, _), row in rows.items():
        assert (row["max_error"] < 1e-4) == ("float32" in name)


@pytest.mark.slow
@pytest.mark.parametrize("small_networks", [StageConvs.__name__], indirect=True)
def test_compiled_variants_have_rows_too(measure, small_networks, monkeypatch):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("there is no compiler")
    for name in ("variants_of", "prepared_variants_of"):
        monkeypatch.setattr(detectors, name, lambda device: ["fp32"])
    monkeypatch.setattr(detectors.torch.onnx, "export", None)
    rows = measure(benchmark_inference, True, SIZE)
    assert {"fp32", "fp32 compiled"} <= {variant for variant, _ in rows}
    assert rows["fp32 compiled", "detectron2"]["max_error"] < 1e-4


def test_exported_models_are_compared_in_their_precision():
    assert detectors._is_comparable("openvino bf16", "bf16")
    assert not detectors._is_comparable("openvino bf16", "fp32")
    assert not detectors._is_comparable("onnxruntime fp32", "bf16")
    assert detectors._is_comparable("detectron2 AMP", "bf16")
    assert detectors._is_comparable("fp32 by openvino", "int8", is_ours=True)
    assert not detectors._is_comparable("fp32", "bf16", is_ours=True)


def test_training(measure, small_networks):
    rows = measure(benchmark_training, False, SIZE)
    assert set(rows) == {(v, "detectron2") for v in variants_of("cpu")}
    assert rows["fp32", "detectron2"]["max_error"] < 1e-4
    for variant in variants_of("cpu")[1:]:  # eight bits of mantissa, and 64 samples of each image
        assert rows[variant, "detectron2"]["max_error"] < 0.05


def test_a_training_step_leaves_the_weights_as_they_are(row_config):
    cfg = row_config("quick/RPN/rpn_R_18_FPN")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    step = detectors.training_step(cfg, model, [image_record(0, (64, 64), objects=2)], None)
    assert step() == step()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_profile_is_of_convolutions(small_networks):
    text = profile_detectors("cpu", size=SIZE, least=0.0)
    for title, table in zip(("testing", "training"), text.split("\n\n"), strict=True):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert rows[0] == [f"operator, {title}", *variants_of("cpu")]
        for column in list(zip(*rows[2:], strict=True))[1:]:
            total = sum(float(share.removesuffix("%") or 0) for share in column)
            assert 85 < total < 115  # each is rounded
        assert any("convolution" in name for name, *_ in rows[2:10])


def test_the_rate_of_matrix_products_is_of_the_faster_library(monkeypatch):
    def seconds(calls, rounds):
        assert list(calls) == ["product", "convolution"]
        assert [call().numel() for call in calls.values()] == [100**2, 100**2]
        return {"product": [0.5, 0.4], "convolution": [0.3, 0.25]}

    monkeypatch.setattr("benchmark.precisions.time_in_turn", seconds)
    rates = matmul_rates("cpu", size=100)
    assert rates == dict.fromkeys(variants_of("cpu"), 2 * 100**3 / 0.25)
