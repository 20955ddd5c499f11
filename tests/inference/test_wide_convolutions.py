"""A prepared model's wide convolutions are Detectron2's up to rounding."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from random_detectors import random_detector
from torch import nn

from fpn_d2.inference import prepare_model, wide_convolutions
from fpn_d2.inference.wide_convolutions import WinogradConv2d, convolve_by_winograd
from fpn_d2.layers import FastGradientConv2d, winograd
from fpn_d2.utils.modules import recast


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Winograd's method for every number of channels, on each processor."""
    monkeypatch.setattr(winograd, "_LEAST_CHANNELS", 1)
    for module in (winograd, wide_convolutions):
        monkeypatch.setattr(module, "gains_by_winograd", lambda: True)


@pytest.fixture
def used(monkeypatch):
    """A list with an entry for each convolution by Winograd's method."""
    calls, real = [], wide_convolutions.convolve
    counted = lambda *args: calls.append(1) or real(*args)  # noqa: E731
    monkeypatch.setattr(wide_convolutions, "convolve", counted)
    return calls


def layer(**options):
    torch.manual_seed(0)
    return Conv2d(6, 8, 3, padding=1, **options).requires_grad_(False)


def turned(model):
    model = copy.deepcopy(model)
    assert convolve_by_winograd(nn.Sequential(model)) == 1
    return model


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
    assert len(used) == 4


@torch.no_grad()
def test_new_weights_are_transformed_anew(used):
    plain, other = nn.Sequential(layer()), nn.Sequential(layer())
    other[0].weight.mul_(2)
    fast = copy.deepcopy(plain)
    convolve_by_winograd(fast)
    first = fast(X)
    fast.load_state_dict(other.state_dict())
    torch.testing.assert_close(fast(X), other(X), rtol=0, atol=1e-4)
    assert not torch.allclose(fast(X), first)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert copy.deepcopy(fast)(X).equal(fast(X))


def test_gradients_traces_other_precisions_and_small_maps_are_detectron2s(used):
    plain = layer()
    fast = turned(plain)
    assert fast(X).equal(plain(X))  # within autograd
    with torch.no_grad():
        assert fast(X[..., :30, :30]).equal(plain(X[..., :30, :30]))
        with torch.autocast("cpu", torch.bfloat16):
            assert fast(X).equal(plain(X))
        assert torch.jit.trace(fast, X, check_trace=False)(X).equal(plain(X))
        assert fast.double()(X.double()).equal(plain.double()(X.double()))
    assert not used


def test_what_is_turned(monkeypatch):
    def model():
        return nn.Sequential(
            layer(), nn.Conv2d(6, 8, 3), Conv2d(8, 8, 3, padding=1),  # turned
            Conv2d(8, 8, 1), Conv2d(8, 8, 3, norm=FrozenBatchNorm2d(8)),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose2d(8, 8, 3),
        )  # fmt: skip

    found = model()
    recast(found[2], FastGradientConv2d)  # as a trainer's
    assert convolve_by_winograd(found) == 3
    assert [type(m) is WinogradConv2d for m in found] == [True] * 3 + [False] * 4
    assert convolve_by_winograd(found) == 0
    monkeypatch.setattr(wide_convolutions, "gains_by_winograd", lambda: False)
    assert convolve_by_winograd(model()) == 0


@pytest.mark.parametrize(
    "config", ["Faster-RCNN/faster_rcnn_R_18_FPN", "RetinaNet/retinanet_R_18_FPN"]
)
def test_a_detector_finds_the_same(config, row_config, used, monkeypatch):
    model = random_detector(row_config(f"quick/{config}"))
    image = {"image": torch.randint(0, 255, (3, 256, 192), dtype=torch.uint8)}
    found = prepare_model(model)([image])[0]["instances"]
    assert used
    monkeypatch.setattr(wide_convolutions, "gains_by_winograd", lambda: False)
    expected = prepare_model(model)([image])[0]["instances"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=0.01
    )
