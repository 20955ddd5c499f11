"""A prepared model's wide convolutions are Detectron2's up to rounding."""

import copy
import pickle
from unittest.mock import Mock

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from random_detectors import random_detector
from torch import nn

from fpn_d2.inference import prepare_model
from fpn_d2.layers import (
    FastGradientConv2d,
    WinogradConv2d,
    cpu_kernels,
    cpu_layers,
    speed_up_wide_convolutions,
    wide_convolutions,
)
from fpn_d2.utils.modules import recast


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Winograd's method for every number of channels, on each processor."""
    monkeypatch.setattr(cpu_kernels, "_LEAST_WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: True)


@pytest.fixture
def used(monkeypatch):
    """The convolution by Winograd's method, which counts its calls."""
    counted = Mock(wraps=cpu_layers.conv2d_by_winograd)
    monkeypatch.setattr(cpu_layers, "conv2d_by_winograd", counted)
    return counted


def layer(**options):
    torch.manual_seed(0)
    return Conv2d(6, 8, 3, padding=1, **options).requires_grad_(False)


def turned(model):
    model = copy.deepcopy(model)
    speed_up_wide_convolutions(nn.Sequential(model))
    assert type(model) is WinogradConv2d
    return model


def copied_by_pickle(model):
    return pickle.loads(pickle.dumps(model))


X = torch.randn(2, 6, 40, 41, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_it_is_detectron2s_with_its_activation(used):
    for plain in (
        layer(),
        layer(bias=False),
        layer(activation=nn.ReLU()),
        nn.Conv2d(6, 8, 3, 1, 1),
    ):
        expected = plain.requires_grad_(False).double()(X.double())
        torch.testing.assert_close(turned(plain.float())(X).double(), expected, rtol=0, atol=5e-5)
    assert used.call_count == 4


@torch.no_grad()
@pytest.mark.parametrize("lowered", [True, False])
def test_in_bfloat16_it_is_detectron2s_up_to_rounding(lowered, used, monkeypatch):
    monkeypatch.setitem(cpu_kernels._LEAST_WINOGRAD_CELLS, torch.bfloat16, 1500)
    plain = layer()
    expected = plain(X)
    fast = turned(plain)
    fast(X)  # keeps a kernel in float32
    fast = fast.bfloat16() if lowered else fast
    with torch.autocast("cpu", torch.bfloat16):
        found = [fast(x) for x in (X, X.bfloat16())]
    assert found[0].dtype == torch.bfloat16
    assert found[0].equal(found[1])  # autocast converts the first one
    assert (found[0].float() - expected).norm() < 0.01 * expected.norm()
    assert used.call_count == 3
    if not lowered:
        assert fast(X).equal(turned(plain)(X))


@torch.no_grad()
def test_new_weights_are_transformed_anew(used):
    plain, other = nn.Sequential(layer()), nn.Sequential(layer())
    other[0].weight.mul_(2)
    fast = copy.deepcopy(plain)
    speed_up_wide_convolutions(fast)
    first = fast(X)
    before = copy.deepcopy(fast)
    fast.load_state_dict(other.state_dict())
    torch.testing.assert_close(fast(X), other(X), rtol=0, atol=1e-4)
    assert not torch.allclose(fast(X), first)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert copy.deepcopy(fast)(X).equal(fast(X))
    assert before(X).equal(first)
    before[0].weight.mul_(2)
    assert before(X).equal(fast(X))
    before[0].weight = plain[0].weight
    assert before(X).equal(first)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, copied_by_pickle])
@pytest.mark.parametrize(
    "double", [lambda weight: weight.mul_(2), lambda weight: weight.data.mul_(2)]
)
def test_weights_that_change_in_place_are_noticed(mode, copied, double, used):
    with mode():
        fast = turned(layer(bias=False))
        first = fast(X)
        double(fast.weight)
        # Doubled weights double a sum, in floats exactly.
        assert copied(fast)(X).equal(2 * first)
    assert used.call_count == 2


def test_gradients_traces_other_precisions_and_small_maps_are_detectron2s(used, monkeypatch):
    plain = layer()
    fast = turned(plain)
    assert fast(X).equal(plain(X))  # within autograd
    with torch.no_grad():
        assert fast(X[..., :30, :30]).equal(plain(X[..., :30, :30]))
        with torch.autocast("cpu", torch.bfloat16):
            assert fast(X).equal(plain(X))
        monkeypatch.setitem(cpu_kernels._LEAST_WINOGRAD_CELLS, torch.bfloat16, 1500)
        with torch.autocast("cpu", torch.float16):
            assert fast(X).equal(plain(X))
        assert torch.jit.trace(fast, X, check_trace=False)(X).equal(plain(X))
        assert torch.compile(fast, backend="eager")(X).equal(plain(X))
        assert fast.double()(X.double()).equal(plain.double()(X.double()))
    assert not used.called


def test_what_is_turned(monkeypatch):
    def model():
        return nn.Sequential(
            layer(), nn.Conv2d(6, 8, 3, padding=1), Conv2d(8, 8, 3, padding=1),  # turned
            Conv2d(8, 8, 1), Conv2d(8, 8, 3, padding=1, norm=FrozenBatchNorm2d(8)),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose2d(8, 8, 3),
        )  # fmt: skip

    def are_turned(found):
        speed_up_wide_convolutions(found)
        return [type(m) is WinogradConv2d for m in found]

    found = model()
    recast(found[2], FastGradientConv2d)  # as a trainer's
    assert are_turned(found) == [True] * 3 + [False] * 4
    assert wide_convolutions(found) == []
    assert are_turned(model().to("meta")) == [False] * 7  # another device
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: False)
    assert are_turned(model()) == [False] * 7


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_has_it_where_the_processor_gains_in_it(precision, row_config, monkeypatch):
    monkeypatch.setattr("fpn_d2.inference.prepared.has_bfloat16", lambda _: True)
    model = random_detector(row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN"))
    for gains in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda dtype, of=gains: dtype == of)
        prepared = prepare_model(model, precision=precision)
        has_it = any(type(layer) is WinogradConv2d for layer in prepared.modules())
        assert has_it is (precision in str(gains))


@pytest.mark.parametrize(
    "config", ["Faster-RCNN/faster_rcnn_R_18_FPN", "RetinaNet/retinanet_R_18_FPN"]
)
def test_a_detector_finds_the_same(config, row_config, used, monkeypatch):
    def prepare_plainly(model):
        with monkeypatch.context() as patch:
            patch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: False)
            return prepare_model(model)

    model = random_detector(row_config(f"quick/{config}"))
    image = {"image": torch.randint(0, 255, (3, 256, 192), dtype=torch.uint8)}
    found = prepare_model(model)
    expected = prepare_plainly(model)
    assert len(found([image])[0]["instances"]) > 0
    assert used.called
    pixels = model.preprocess_image([image]).tensor
    with torch.no_grad():
        features, plain = (ready.model.backbone(pixels) for ready in (found, expected))
    for name, level in plain.items():
        bound = 1e-5 * level.abs().max().item()
        torch.testing.assert_close(features[name], level, rtol=0, atol=bound)
