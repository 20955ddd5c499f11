"""Detectors whose dense parts run in OpenVINO, compared with themselves in PyTorch."""

import copy
import functools
import gc
import logging
import multiprocessing
import os
import signal
import sys
from itertools import chain
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from random_detectors import detect, image_of, proposals_of, random_detector
from torch import nn

from fpn_d2 import UserError
from fpn_d2.evaluation.matching import match_boxes
from fpn_d2.inference import Explainer, openvino_parts, prepare_model
from fpn_d2.layers import cpu_kernels, wide_convolutions

# Wide, square and tall; only the square one has sides that are multiples of 32.
SIZES = [(65, 90), (128, 128), (190, 70)]
FASTER = "Faster-RCNN/faster_rcnn_R_18_FPN"
ROWS = [
    *(FASTER, "RetinaNet/retinanet_R_18_FPN"),
    *(
        pytest.param(row, marks=pytest.mark.slow)
        for row in (
            *(f"RPN/rpn_R_18_{name}" for name in ("C4", "C5", "FPN", "P2", "bottom_up")),
            *(f"Fast-RCNN/fast_rcnn_R_18_{name}" for name in ("C4", "C5", "FPN", "P2")),
            *(f"Fast-RCNN/fast_rcnn_R_18_{name}" for name in ("bottom_up", "top_down")),
            *(f"Faster-RCNN/faster_rcnn_R_18_{name}" for name in ("C4", "C5")),
            "Feature-Sharing/shared_R_18_FPN",
        )
    ),
]


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def model_of(row_config):
    """``model_of(row, KEY, value, ...)``: a random model with spread scores."""
    return functools.cache(lambda row, *opts: random_detector(row_config(f"quick/{row}", *opts)))


def boxes_of(model, size, with_proposals):
    """Return the boxes that a model finds in an image, their scores and classes."""
    proposals = proposals_of(40, *size) if with_proposals else None
    found = detect(model, image_of(*size), proposals)
    return found if len(found) == 3 else [*found, torch.zeros(len(found[0]))]


@pytest.mark.parametrize("row", ROWS)
def test_the_detections_are_pytorchs_for_images_of_any_size(openvino, model_of, row):
    model = model_of(row)
    ready = prepare_model(model, engine="openvino")
    matched = most = 0
    for size in SIZES:
        boxes, scores, kinds = boxes_of(model, size, row.startswith("Fast-"))
        found, found_scores, found_kinds = boxes_of(ready, size, row.startswith("Fast-"))
        pairs, _ = match_boxes(found, boxes, found_kinds, kinds, pixels=0.1)
        a, b = found_scores[pairs[:, 0]], scores[pairs[:, 1]]
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        matched += len(pairs)
        most += max(len(boxes), len(found))
    assert most > 10
    assert matched >= 0.995 * most


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dual", "image_pyramid"])
def test_mask_proposals_are_pytorchs(openvino, row_config, name):
    torch.manual_seed(0)
    model = build_model(row_config(f"quick/Mask-Proposals/mask_R_18_{name}")).eval()
    head = model.proposal_generator.head
    with torch.no_grad():
        features = model.backbone(image_of(128, 128)[None] - 128)
        for i, mlp in enumerate(zip(head.score_outputs, head.mask_outputs, strict=True)):
            units = head.hidden(next(iter(features.values())), i)[0].flatten(1).t()
            for layer in mlp:
                layer.weight *= 2 / layer(units).std()
    ready = prepare_model(model, engine="openvino")
    for height, width in SIZES[:2]:
        record = {"image": image_of(height, width), "height": height, "width": width}
        with torch.no_grad():
            expected, found = (m([record])[0]["instances"] for m in (model, ready))
        regions = [x.pred_masks.regions for x in (found, expected)]
        distances = (regions[0][:, None] - regions[1][None]).abs().amax(dim=2)
        pairs = (distances < 0.1).nonzero()
        assert len(found) == len(expected) > 50
        assert len(pairs) >= 0.995 * len(expected)
        a, b = found[pairs[:, 0]], expected[pairs[:, 1]]
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
        assert ((a.pred_masks.masks - b.pred_masks.masks).abs() < 1e-3).all()


@pytest.mark.slow
def test_masks_of_a_mask_rcnn_are_pytorchs(openvino, row_config, caplog):
    opts = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"]
    opts += ["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16]
    model = random_detector(row_config(f"quick/{FASTER}", *opts))
    with caplog.at_level(logging.INFO, "fpn_d2"):
        ready = prepare_model(model, engine="openvino")
    assert "backbone, mask_head by OpenVINO" in caplog.text
    record = {"image": image_of(96, 128), "height": 96, "width": 128}
    with torch.no_grad():
        expected, found = (m([record])[0]["instances"] for m in (model, ready))
    assert len(found) == len(expected) > 5
    boxes = [x.pred_boxes.tensor for x in (found, expected)]
    torch.testing.assert_close(*boxes, rtol=0, atol=0.1)
    assert (found.pred_masks == expected.pred_masks).float().mean() > 0.999


def test_what_runs_is_the_graph_and_the_log_says_what_runs_where(openvino, model_of, caplog):
    model = model_of(FASTER)
    with caplog.at_level(logging.INFO, "fpn_d2"):
        ready = prepare_model(model, engine="openvino")
    assert "backbone by OpenVINO" in caplog.text
    assert "in float32 on 1 thread; the rest by PyTorch in float32" in caplog.text
    expected = detect(ready, image_of(64, 64))
    for layer in ready.model.backbone.modules():  # none of them is called any more
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    found = detect(ready, image_of(64, 64))
    assert len(found[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # the head itself computes features that are not this backbone's
    features = [torch.zeros(1, 64, 4, 4)] * 5
    logits, _ = ready.model.proposal_generator.rpn_head(features)
    assert [x.shape for x in logits] == [(1, 3, 4, 4)] * 5


CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.MASK_ON", True)
CASCADE += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
CASCADE += ("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224)  # Detectron2's heads have no other
CASCADE += ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
PARTS = {  # row, overrides, precision: the parts
    (FASTER, (), "float32"): "backbone",
    (FASTER, (), "int8"): "backbone box_head",
    ("Faster-RCNN/faster_rcnn_R_18_C4", (), "float32"): "backbone res5",
    (FASTER, CASCADE, "int8"): "backbone box_head1 box_head2 box_head3 mask_head",
}


@pytest.mark.parametrize("row, opts, precision", PARTS)
def test_which_parts_become_graphs(row_config, row, opts, precision):
    model = build_model(row_config(f"quick/{row}", *opts))
    parts = openvino_parts.parts_of(model, precision)
    assert " ".join(part.name for part in parts) == PARTS[row, opts, precision]


@pytest.mark.usefixtures("openvino")
def test_a_model_of_grey_images_is_taken(row_config):
    grey = ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [128.0], "MODEL.PIXEL_STD", [1.0])
    model = build_model(row_config("quick/RPN/rpn_R_18_C4", *grey)).eval()
    ready = prepare_model(model, engine="openvino")
    expected, found = (detect(m, image_of(64, 96)[:1])[1][:5] for m in (model, ready))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_no_package_changes_the_log_or_the_environment(monkeypatch):
    monkeypatch.setenv("CI", "mine")
    monkeypatch.delenv("NNCF_CI", raising=False)
    root = logging.getLogger()
    before = root.level, [*root.handlers], [*root.filters]
    with openvino_parts.quietly():
        assert (os.environ["CI"], os.environ["NNCF_CI"]) == ("true", "1")
        root.setLevel(logging.CRITICAL + 1)
        root.handlers.append(logging.NullHandler())
        root.filters.append(len)
    assert (root.level, root.handlers, root.filters) == before
    assert (os.environ["CI"], os.environ.get("NNCF_CI")) == ("mine", None)


def test_graphs_take_no_new_weights(openvino, model_of):
    prepared = prepare_model(model_of(FASTER), engine="openvino")
    with pytest.raises(RuntimeError, match="prepare the model again"):
        prepared.load_weights(prepared)


def test_the_precision_hint_is_set(openvino, model_of, monkeypatch):
    asked = []
    real = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda *args: asked.append(args[3]) or real(*args)
    )
    detect(prepare_model(model_of(FASTER), engine="openvino"), image_of(64, 64))
    monkeypatch.setattr("fpn_d2.inference.prepared.has_bfloat16", lambda device: True)
    ready = prepare_model(model_of(FASTER), engine="openvino", precision="bfloat16")
    expected, found = (detect(m, image_of(64, 64))[1] for m in (model_of(FASTER), ready))
    assert found.dtype == torch.float32
    assert (found[0] - expected[0]).abs() < 0.05
    assert [settings["INFERENCE_PRECISION_HINT"] for settings in asked] == ["f32", "bf16"]
    assert {settings["INFERENCE_NUM_THREADS"] for settings in asked} == {torch.get_num_threads()}
    assert {settings["ENABLE_CPU_PINNING"] for settings in asked} == {False}


@pytest.mark.usefixtures("openvino")
def test_maps_are_bfloat16_and_what_ranks_boxes_is_float32(model_of, monkeypatch):
    monkeypatch.setattr("fpn_d2.inference.prepared.has_bfloat16", lambda device: True)
    plain = model_of(FASTER)
    ready = prepare_model(plain, engine="openvino", precision="bfloat16").model
    for side in (64, 96):
        image = torch.randn(1, 3, side, side)
        with torch.no_grad():
            (expected, *lists), (found, *found_lists) = (
                (maps := m.backbone(image), *m.proposal_generator.rpn_head([*maps.values()]))
                for m in (plain, ready)
            )
        for name, level in found.items():
            assert level.dtype == torch.bfloat16
            assert level.is_contiguous(memory_format=torch.channels_last)
            # the 8 bits of bfloat16, through several layers
            within = 0.05 * expected[name].abs().max()
            torch.testing.assert_close(level.float(), expected[name], rtol=0, atol=within)
        for ours, theirs in zip(chain(*found_lists), chain(*lists), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05 * theirs.abs().max())


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize(("num_last", "dtype"), [(0, torch.bfloat16), (1, torch.float32)])
def test_of_a_part_only_what_is_last_stays_float32(num_last, dtype):
    part = openvino_parts.Part("head", nn.Conv2d(4, 2, 3, padding=1), "forward", num_last)
    graph = openvino_parts.convert(part, torch.zeros(1, 4, 7, 7))
    run = openvino_parts.compile_graph(graph, "bfloat16", is_image=False, num_last=num_last)
    x = torch.randn(5, 4, 7, 7)
    (found,) = run(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), part(x)[0].detach(), rtol=0, atol=0.05)


def test_outputs_outlive_the_next_call_and_no_graph_takes_an_empty_batch():
    owner, buffer = nn.Conv2d(1, 1, 1), torch.zeros(1)

    def run(x):
        assert len(x)
        return [buffer.fill_(x.item())]  # as a graph, which overwrites its outputs

    openvino_parts.Part("a head", owner, "forward").attach(run)
    first, second = (owner(torch.full((1, 1, 1, 1), value)) for value in (3.0, 4.0))
    assert (first.item(), second.item()) == (3, 4)
    assert owner(torch.zeros(0, 1, 1, 1)).shape == (0, 1, 1, 1)


def test_inputs_of_parts_are_spread_over_the_rois_and_none_overflows():
    """Of 40 RoIs, the first and each third after it are 14, at most 16."""
    owner = nn.Conv2d(1, 1, 1).requires_grad_(False)
    part = openvino_parts.Part("a head", owner, "forward")
    rois = torch.arange(40.0).view(40, 1, 1, 1)
    for scale, dtype in ((1.0, torch.float16), (1e4, torch.float32)):  # float16 ends at 65504
        found = openvino_parts.record_inputs(lambda _, x=rois * scale: owner(x), [part], [{}])
        (kept,) = found["a head"]
        assert kept.dtype == dtype
        assert kept.flatten().tolist() == [scale * i for i in range(0, 40, 3)]


@torch.jit.script
def doubled(x: torch.Tensor, y: torch.Tensor | None = None):
    if y is None:
        y = x
    return x + y


@pytest.mark.usefixtures("openvino")
def test_a_part_may_call_a_script():
    part = openvino_parts.Part("twice", nn.Conv2d(3, 2, 2), "forward")
    part.eager = lambda x: doubled(nn.functional.relu(x))
    openvino_parts.convert(part, torch.zeros(1, 3, 8, 8))


@pytest.mark.usefixtures("openvino")
def test_a_conversion_traces_a_part_once(monkeypatch):
    """A second trace, of the check, keeps a copy of the weights in memory to the end."""
    convolve = Mock(wraps=nn.functional.conv2d)
    part = openvino_parts.Part("halves", nn.Conv2d(3, 2, 2, stride=2), "forward")
    monkeypatch.setattr(nn.functional, "conv2d", convolve)
    openvino_parts.convert(part, torch.zeros(1, 3, 8, 8))
    convolve.assert_called_once()


def test_the_first_sizes_get_graphs_of_their_own(openvino):
    part = openvino_parts.Part("halves", nn.Conv2d(3, 2, 2, stride=2), "forward")
    graph = openvino_parts.convert(part, torch.zeros(1, 3, 8, 8))
    shapes = []
    real = openvino.Core.compile_model

    def compile_model(core, graph, *args):
        shapes.append(str(graph.inputs[0].partial_shape))
        return real(core, graph, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", compile_model)
        graph.reshape([-1, 3, -1, -1])
        run = openvino_parts.compile_graph(graph, "float32", is_image=True)
        for size in ((8, 8), (6, 4), (8, 8), (10, 4), (4, 10), (6, 4)):
            x = torch.randn(1, 3, *size)
            (found,) = run(x)
            torch.testing.assert_close(found, part(x)[0].detach(), rtol=1e-4, atol=1e-5)
            assert found.is_contiguous(memory_format=torch.channels_last)
    assert shapes == ["[1,3,8,8]", "[1,3,6,4]", "[?,3,?,?]"]


def receive_a_signal():
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.usefixtures("openvino")
def test_a_signal_is_survived_once_graphs_are_gone():
    runs = []
    for _ in range(2):  # the one made first is deleted first
        part = openvino_parts.Part("halves", nn.Conv2d(3, 2, 2, stride=2), "forward")
        graph = openvino_parts.convert(part, torch.zeros(1, 3, 8, 8))
        runs.append(openvino_parts.compile_graph(graph, "float32", is_image=True))
        runs[-1](torch.zeros(1, 3, 8, 8))
    while runs:
        del runs[0]
        gc.collect()
    process = multiprocessing.get_context("fork").Process(target=receive_a_signal)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_an_explanation_has_the_maps_within_the_pyramid(openvino, row_config, model_of):
    cfg = row_config(f"quick/{FASTER}", "INFERENCE.ENGINE", "openvino")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    found = Explainer(cfg, model_of(FASTER)).explain(image, threshold=0.0)
    plain = Explainer(row_config(f"quick/{FASTER}"), model_of(FASTER)).explain(image, threshold=0.0)
    assert {kind: list(maps) for kind, maps in found.features.items()} == {
        kind: list(maps) for kind, maps in plain.features.items()
    }
    for kind, maps in plain.features.items():
        for name, expected in maps.items():
            np.testing.assert_allclose(found.features[kind][name], expected, rtol=1e-3, atol=1e-4)


# --- what cannot be


def test_a_missing_package_is_a_sentence_and_auto_goes_on_without(model_of, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed; python -m pip install"):
        prepare_model(model_of(FASTER), engine="openvino")
    ready = prepare_model(model_of(FASTER), engine="auto", precision="int8")
    assert (ready.engine, ready.dtype) == ("torch", None)
    assert "INFERENCE.ENGINE auto takes torch: openvino is not installed" in caplog.text
    assert caplog.text.count("\n") == 1


@pytest.mark.usefixtures("openvino")
def test_engines_precisions_and_devices_that_do_not_go_together(model_of, monkeypatch):
    model = model_of(FASTER)
    for choices, sentence in (
        ({"engine": "tensorrt"}, "'tensorrt' is none of torch, openvino, auto"),
        ({"precision": "int8"}, "int8 is OpenVINO's; set INFERENCE.ENGINE openvino"),
        ({"precision": "float16", "engine": "openvino"}, "float16 is not one of OpenVINO's"),
        ({"compile": True, "engine": "openvino"}, "COMPILE compiles by PyTorch"),
    ):
        with pytest.raises(UserError, match=sentence):
            prepare_model(model, **choices)
    with pytest.raises(
        UserError, match=r"cannot take a Conv2d, which has no backbone of Detectron"
    ):
        openvino_parts.parts_of(nn.Conv2d(1, 1, 1), "float32")
    with pytest.raises(UserError, match="for CPUs, and the model is on cuda; set MODEL.DEVICE cpu"):
        openvino_parts.check_engine("float32", torch.device("cuda"))

    class Core:
        def get_property(self, device, name):
            return ["FP32"]

    monkeypatch.setattr(openvino_parts, "openvino_core", Core)
    with pytest.raises(UserError, match="int8 is slower than float32 on this CPU"):
        prepare_model(model, engine="openvino", precision="int8")


class Strange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2


def test_a_network_that_openvino_cannot_take_is_a_sentence(openvino, model_of, caplog):
    model = copy.deepcopy(model_of(FASTER))
    stem = model.backbone.bottom_up.stem
    stem.forward = lambda x: Strange.apply(type(stem).forward(stem, x))
    with pytest.raises(UserError, match=r"OpenVINO cannot take the backbone .*ENGINE torch") as e:
        prepare_model(model, engine="openvino")
    assert "\n" not in str(e.value)
    assert prepare_model(model, engine="auto").engine == "torch"
    assert "auto takes torch: OpenVINO cannot take the backbone" in caplog.text


@pytest.mark.usefixtures("openvino")
def test_auto_leaves_wide_convolutions_in_float32_to_winograds_method(
    model_of, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(cpu_kernels, "_LEAST_WINOGRAD_CHANNELS", 64)
    for gains, engine in ((True, "torch"), (False, "openvino")):
        monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda _, gains=gains: gains)
        caplog.clear()
        assert prepare_model(model_of(FASTER), engine="auto").engine == engine
        assert ("auto takes torch, whose wide convolutions" in caplog.text) == gains
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: True)
    monkeypatch.setattr(cpu_kernels, "_LEAST_WINOGRAD_CHANNELS", 128)
    head = ("MODEL.ROI_MASK_HEAD.CONV_DIM", 128, "MODEL.ROI_MASK_HEAD.NUM_CONV", 2)
    masks = model_of(FASTER, "MODEL.MASK_ON", True, *head)
    assert wide_convolutions(masks)  # they run on RoIs, which have too few cells
    assert prepare_model(masks, engine="auto").engine == "openvino"
