"""Each task of the benchmark at a size that takes a second."""

import shutil
import time
from itertools import chain

import pytest
import torch
from detectron2.modeling import build_model

from fpn_d2 import load_config
from fpn_d2.benchmark import (
    benchmark_inference,
    benchmark_linear,
    benchmark_mask_proposals,
    benchmark_matching,
    benchmark_pooling,
    benchmark_rows,
    benchmark_training,
    detectors,
    networks,
    operators,
    profile_detectors,
    profiling,
    table_rows,
    take_turns,
    training,
)
from fpn_d2.layers import convolved_linear
from fpn_d2.modeling import rpn
from fpn_d2.utils.devices import has_bfloat16

SIZE = (128, 160)


def variants():
    return ["fp32", "bf16"] if has_bfloat16("cpu") else ["fp32"]


def check(rows):
    for row in rows:
        assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"], rel=0.02)
        assert row["spread"][0] <= row["seconds"] <= row["spread"][1]
    return {(row["variant"], row["baseline"]): row for row in rows}


class Slow(torch.nn.Module):
    """A detector of another package with this backbone, which takes 50 ms."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        time.sleep(0.05)
        self.backbone(images[0][None])  # not normalized, so its features are others


@pytest.fixture
def small_networks(repo, monkeypatch):
    """ResNet-18 in the place of ResNet-50, which torchvision's detector is not made with."""

    def build(configs, device, size):
        opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
        # stock heads have no other canonical size
        opts += ["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", "224"]
        path = configs / "quick" / "Faster-RCNN" / "faster_rcnn_R_18_FPN.yaml"
        cfg = load_config(path, opts)
        torch.manual_seed(0)
        ours = networks.build_for_training(cfg).eval()
        record = networks.image_record(0, size)
        networks.settle_norms(ours, lambda: ours([record]))
        stock = build_model(load_config(path, [*opts, *networks._STOCK]).clone()).eval()
        stock.load_state_dict(ours.state_dict())
        return networks.Networks(cfg, ours, stock, Slow(stock.backbone))

    for module in (detectors, profiling, training):
        monkeypatch.setattr(module, "build_networks", build)


def test_inference(repo, small_networks, monkeypatch):
    def no_module(*_, **__):
        raise ImportError("onnx is not installed")

    monkeypatch.setattr(detectors.torch.onnx, "export", no_module)
    rows = check(benchmark_inference(repo / "configs", "cpu", 1, size=SIZE))
    baselines = ("detectron2", "torchvision")  # alone no memory is kept
    assert set(rows) == {(v, b) for v in variants() for b in baselines}
    assert rows["fp32", "detectron2"]["max_error"] < 1e-4
    assert rows["fp32", "torchvision"]["max_error"] > 0.1
    assert 0 < rows["fp32", "detectron2"]["share_of_matmul"] < 2
    for variant in variants()[1:]:
        assert 1e-4 < rows[variant, "detectron2"]["max_error"] < 0.3


def test_the_profile_is_of_convolutions(repo, small_networks):
    text = profile_detectors(repo / "configs", "cpu", size=SIZE, least=0.0)
    for title, table in zip(("testing", "training"), text.split("\n\n"), strict=True):
        lines = table.splitlines()
        assert lines[0] == f"| operator, {title} | {' | '.join(variants())} |"
        cells = [line.replace(" ", "").replace("%", "").split("|")[2:-1] for line in lines[2:]]
        for column in zip(*cells, strict=True):
            assert 85 < sum(float(share or 0) for share in column) < 115  # each is rounded
        assert any("convolution" in line for line in lines[2:10])


@pytest.mark.slow
def test_compiled_variants_have_rows_too(repo, small_networks, monkeypatch):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("there is no compiler")
    monkeypatch.setattr(detectors, "variants_of", lambda device: ["fp32"])
    monkeypatch.setattr(detectors.torch.onnx, "export", None)
    rows = check(benchmark_inference(repo / "configs", "cpu", 1, compiled=True, size=SIZE))
    assert {"fp32", "fp32 compiled"} <= {variant for variant, _ in rows}
    assert rows["fp32 compiled", "detectron2"]["max_error"] < 1e-4


def test_exported_models_are_compared_in_their_precision():
    assert detectors._comparable("openvino bf16", "bf16")
    assert not detectors._comparable("openvino bf16", "fp32")
    assert not detectors._comparable("onnxruntime fp32", "bf16")
    assert detectors._comparable("detectron2 AMP", "bf16")


def test_training(repo, small_networks):
    rows = check(benchmark_training(repo / "configs", "cpu", 1, size=SIZE))
    assert set(rows) == {(v, "detectron2") for v in variants()}
    assert rows["fp32", "detectron2"]["max_error"] < 1e-4
    for variant in variants()[1:]:  # eight bits of mantissa, and 64 samples of each image
        assert rows[variant, "detectron2"]["max_error"] < 0.05


def test_pooling():
    rows = check(benchmark_pooling("cpu", 1, count=50, size=SIZE))
    ways = ("forward", "forward and backward")
    assert set(rows) == {(f"{v} {way}", "detectron2") for v in variants() for way in ways}
    assert all(rows[f"fp32 {way}", "detectron2"]["max_error"] < 1e-4 for way in ways)


def test_linear(monkeypatch):
    monkeypatch.setattr(operators, "has_slow_matmul", lambda: False)
    assert not benchmark_linear("cpu", 1)
    monkeypatch.setattr(operators, "has_slow_matmul", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # on one it is a plain layer
    called, convolve = [], convolved_linear.F.conv2d
    monkeypatch.setattr(
        convolved_linear.F, "conv2d", lambda *x: [called.append(1), convolve(*x)][1]
    )
    rows = check(benchmark_linear("cpu", 1, count=70))
    assert called
    assert set(rows) == {(f"fp32 {w}", "detectron2") for w in ("forward", "forward and backward")}
    assert all(row["max_error"] < 1e-4 for row in rows.values())


def test_mask_proposals(repo):
    rows = check(benchmark_mask_proposals(repo / "configs", "cpu", 1, size=SIZE))
    assert {variant for variant, _ in rows} == {
        f"{v} {w}" for v in variants() for w in ("5x5", "dual")
    }


def test_one_network_in_three_packages(repo):
    """Features, the RPN's outputs, and hundreds of proposals, which activations that grow from
    block to block do not leave."""
    built = networks.build_networks(repo / "configs", "cpu", (256, 320))
    record = networks.image_record(0, (256, 320))
    with torch.no_grad():
        images = built.stock.preprocess_image([record])
        expected = built.stock.backbone(images.tensor)
        proposals, _ = built.stock.proposal_generator(images, expected)
        ours = built.ours.backbone(images.tensor)
        theirs = built.torchvision.backbone(images.tensor)
        ours_rpn = built.ours.proposal_generator.rpn_head(list(expected.values()))
        theirs_rpn = built.torchvision.rpn.head(list(expected.values()))
        detections = built.stock([record])[0]["instances"]
    assert len(proposals[0]) > 100  # of 20,460 anchors
    assert len(detections) > 10
    for a, b in zip(chain(*ours_rpn), chain(*theirs_rpn), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for (name, feature), other in zip(expected.items(), theirs.values(), strict=True):
        largest = feature.abs().max()
        assert (ours[name] - feature).abs().max() < 1e-3 * largest
        assert (other - feature).abs().max() < 1e-3 * largest
        assert 0.1 < feature.std() < 10


def test_norms_are_settled_in_the_order_of_the_network():
    torch.manual_seed(0)
    norms = [torch.nn.BatchNorm2d(3, eps=1e-9, affine=False) for _ in range(2)]
    conv = torch.nn.Conv2d(3, 3, 1)
    model = torch.nn.Sequential(norms[0], conv, norms[1]).eval()
    image = 5 + 3 * torch.randn(1, 3, 40, 40)
    networks.settle_norms(model, lambda: model(image))
    torch.testing.assert_close(norms[0].running_mean, image.mean(dim=(0, 2, 3)))
    result = model(image)
    torch.testing.assert_close(result.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.var(dim=(0, 2, 3), correction=0), torch.ones(3))


def names_of(*kinds):
    return [
        f"{kind}_R_18_{name}"
        for kind, names in {
            "rpn": ("C4", "C5", "FPN", "P2", "bottom_up", "top_down"),
            "fast_rcnn": ("C4", "C5", "FPN", "P2", "bottom_up", "top_down"),
            "faster_rcnn": ("C4", "C5", "FPN"),
            "retinanet": ("FPN",),
        }.items()
        if kind in kinds
        for name in names
    ]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("Faster-RCNN", "RetinaNet"), names_of("faster_rcnn", "retinanet")),
        pytest.param(("RPN", "Fast-RCNN"), names_of("rpn", "fast_rcnn"), marks=pytest.mark.slow),
    ],
    ids=["detectors", "others"],
)
def test_every_row_of_tables_1_to_3_is_compared(folders, names, repo, monkeypatch):
    assert set(folders) <= set(table_rows.FOLDERS)
    monkeypatch.setattr(table_rows, "FOLDERS", folders)
    monkeypatch.setattr(table_rows, "SIZE", 64)
    monkeypatch.setattr(table_rows, "_PROPOSALS", 20)
    rows = check(benchmark_rows(repo / "configs", "cpu", 1))
    ways = ("inference", "training")
    assert set(rows) == {(f"{name} {way}", "detectron2") for name in names for way in ways}
    for name in names:
        for way in ways:
            assert rows[f"{name} {way}", "detectron2"]["max_error"] < 1e-4


def test_matching_samples_the_same_anchors(repo, monkeypatch):
    monkeypatch.setattr(table_rows, "HEIGHT", 160)
    monkeypatch.setattr(table_rows, "WIDTH", 200)
    monkeypatch.setattr(rpn, "_MAX_PAIRS", 100_000)  # 3 of the objects at once
    ((_, row),) = check(benchmark_matching(repo / "configs", "cpu", 1, count=20)).items()
    assert row["max_error"] == 0


def test_a_task_gives_the_same_rows_from_two_processes(repo):
    (row,) = take_turns(benchmark_matching, repo / "configs", "cpu", 1, 2)
    (alone,) = benchmark_matching(repo / "configs", "cpu", 1, 2)
    assert row.keys() == alone.keys()
    for key in ("task", "variant", "baseline", "max_error", "rounds"):
        assert row[key] == alone[key]
