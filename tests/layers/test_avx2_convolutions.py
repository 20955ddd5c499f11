"""Convolutions with a fast gradient equal Detectron2's."""

import copy
import pickle
from unittest.mock import Mock

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from fpn_d2.engine import Trainer
from fpn_d2.layers import FastGradientConv2d, cpu_kernels, cpu_layers, speed_up_gradients
from fpn_d2.utils.modules import recast

CHANNELS_LAST = torch.channels_last


def pair(bias=True, stride=1):
    """A convolution of Detectron2 with a norm and an activation, and the fast one."""
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(8)
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        value.uniform_(0.5, 1.5)  # or it would do nothing
    plain = Conv2d(6, 8, 3, stride, 1, bias=bias, norm=norm, activation=nn.functional.relu).to(
        memory_format=CHANNELS_LAST
    )
    fast = copy.deepcopy(plain)
    recast(fast, FastGradientConv2d)
    return plain, fast


def images(side, batch=2, **options):
    return torch.randn(batch, 6, side, side, **options).contiguous(memory_format=CHANNELS_LAST)


@pytest.fixture
def gradients(monkeypatch):
    """The function with the fast gradient, which counts its calls."""
    counted = Mock(wraps=cpu_layers._Convolution.apply)
    monkeypatch.setattr(cpu_layers._Convolution, "apply", counted)
    return counted


@pytest.fixture(params=["sum", "copies", "Winograd"])
def method(request, monkeypatch):
    """Each method by which wide convolutions with a stride of 1 are computed: its name, and
    Winograd's gradient, which counts its calls."""
    monkeypatch.setattr(cpu_layers, "_LEAST_CHANNELS", 1)
    monkeypatch.setattr(
        cpu_layers, "has_slow_channels_last_gradient", lambda: request.param == "copies"
    )
    monkeypatch.setattr(cpu_kernels, "_LEAST_WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: request.param == "Winograd")
    counted = Mock(wraps=cpu_layers.weight_gradient_by_winograd)
    monkeypatch.setattr(cpu_layers, "weight_gradient_by_winograd", counted)
    return request.param, counted


@pytest.mark.parametrize("bias, stride", [(True, 1), (False, 2)])
@pytest.mark.parametrize("of_input", [True, False])
def test_it_is_detectron2s_convolution_forward_and_backward(
    bias, stride, of_input, gradients, method
):
    plain, fast = pair(bias, stride)
    x = images(40)
    gradient = torch.randn(2, 8, 40 // stride, 40 // stride)
    found = []
    for layer in (plain.double(), fast):
        own = x.to(layer.weight.dtype).detach().requires_grad_(of_input)
        y = layer(own)
        y.backward(gradient.to(y.dtype))
        found.append([y, *([own.grad] if of_input else []), *(p.grad for p in layer.parameters())])
    assert gradients.call_count == 1
    assert method[1].call_count == (method[0] == "Winograd" and stride == 1)
    for exact, computed in zip(*found, strict=True):
        # Winograd's rounding errors are those of the largest sums, not of each value.
        atol = 1e-5 * exact.abs().max().item() if method[0] == "Winograd" else 1e-4
        torch.testing.assert_close(computed.double(), exact, rtol=1e-4, atol=atol)
    assert fast.weight.grad.stride() == fast.weight.stride()


@pytest.fixture
def in_bfloat16(method, monkeypatch):
    """Maps of bfloat16 that need not be larger than others."""
    monkeypatch.setitem(cpu_kernels._LEAST_WINOGRAD_CELLS, torch.bfloat16, 1500)
    return method


@pytest.mark.parametrize("of_input", [torch.float32, torch.bfloat16, None])
def test_in_autocast_it_is_detectron2s_layer_in_double_precision(of_input, gradients, in_bfloat16):
    """bfloat16 rounds weights, factors and results by up to 2^-9 each."""
    plain, fast = pair()
    plain.activation, fast.activation = None, None  # at 0 a rounded ReLU has another gradient
    x, gradient = images(40), torch.randn(2, 8, 40, 40)
    found = []
    for layer, dtype in ((plain.double(), torch.float64), (fast, of_input or torch.float32)):
        own = x.to(dtype).requires_grad_(of_input is not None)
        with torch.autocast("cpu", torch.bfloat16, enabled=layer is fast):
            y = layer(own)
        y.backward(gradient.to(y.dtype))
        found.append([y, *([own.grad] if of_input else []), *(p.grad for p in layer.parameters())])
    by_winograd = in_bfloat16[0] == "Winograd"
    assert gradients.call_count == in_bfloat16[1].call_count == by_winograd
    assert fast.weight.grad.dtype == fast.bias.grad.dtype == torch.float32
    for exact, computed in zip(*found, strict=True):
        assert (computed.double() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize(
    "dtype, in_autocast", [(torch.float64, True), (torch.int32, True), (torch.bfloat16, False)]
)
def test_what_detectron2s_layer_refuses_has_its_error(dtype, in_autocast, in_bfloat16):
    x = images(40).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=in_autocast):
        for layer in pair():
            with pytest.raises(RuntimeError, match="should be the same"):
                layer(x)


def test_a_penalty_on_the_gradient_and_a_layer_that_is_used_twice(gradients, method):
    found = []
    x = images(40)
    for layer in pair():
        layer.activation = None
        own = x.clone().requires_grad_()
        y = layer(own)
        (inner,) = torch.autograd.grad(y.square().sum(), own, create_graph=True)
        (y.sum() + inner.square().sum() + layer(2 * own).sum()).backward()
        found.append([own.grad, *(p.grad for p in layer.parameters())])
    assert gradients.call_count == 2
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-3 * plain.abs().max())


def test_a_penalty_on_the_gradient_in_autocast(gradients, in_bfloat16):
    found = []
    x = images(40)
    for layer in pair():
        layer.norm = layer.activation = None
        own = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(own)
        (inner,) = torch.autograd.grad(y.float().square().sum(), own, create_graph=True)
        inner.square().sum().backward()
        found.append([own.grad, layer.weight.grad])
    for plain, fast in zip(*found, strict=True):
        assert (fast - plain).norm() < 0.02 * plain.norm()


def test_what_follows_may_change_the_output_in_place(method):
    """As Detectron2's residual blocks without norms do."""
    _, fast = pair()
    fast.norm, fast.activation = None, nn.functional.relu_
    for batch, side in ((1, 40), (1, 41), (2, 40), (2, 42)):
        fast(images(side, batch)).sum().backward()
    assert method[1].call_count == 4 * (method[0] == "Winograd")


def test_what_convolves_within_the_layer_is_left_alone(gradients):
    class Convolving(nn.Module):
        def forward(self, x):
            return nn.functional.conv2d(x, torch.ones(1, 8, 1, 1), padding=1)

    plain, fast = pair()
    plain.activation, fast.activation = Convolving(), Convolving()
    x = images(40)
    assert torch.equal(fast(x), plain(x))
    assert gradients.call_count == 1


def test_copies_and_pickles(gradients):
    _, fast = pair()
    fast.activation = None
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(images(40) * 0 + 1), fast(images(40) * 0 + 1))


def test_a_frozen_weight_with_a_bias_that_trains(gradients):
    _, fast = pair()
    plain, _ = pair()
    for layer in (plain, fast):
        layer.weight.requires_grad_(False)
        layer(images(40)).sum().backward()
        assert layer.weight.grad is None
    assert plain.bias.grad is not None
    assert not gradients.called


@pytest.mark.parametrize(
    "x",
    [images(38), images(40, batch=0), images(40, dtype=torch.float64)],
    ids=["small", "none", "double"],
)
def test_what_gains_nothing_is_detectron2s(x, gradients):
    plain, fast = (layer.to(x.dtype) for layer in pair())
    assert torch.equal(fast(x), plain(x))
    assert gradients.call_count == (1 if len(x) == 0 else 0)


def test_a_channels_first_layer_is_detectron2s(gradients):
    plain, fast = (layer.to(memory_format=torch.contiguous_format) for layer in pair())
    x = torch.randn(2, 6, 40, 40)
    assert torch.equal(fast(x), plain(x))
    assert not gradients.called


def test_evaluation_other_precisions_and_traces_are_detectron2s(gradients):
    plain, fast = pair()
    x = images(40)
    with torch.no_grad():
        assert torch.equal(fast(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), plain(x))
    torch.jit.trace(fast, x, check_trace=False)
    assert not gradients.called


@pytest.mark.parametrize("slow", [True, False])
def test_copies_are_for_stems_and_processors_that_gain_by_them(slow, monkeypatch):
    monkeypatch.setattr(cpu_layers, "has_slow_channels_last_gradient", lambda: slow)
    monkeypatch.setattr(cpu_layers, "_LEAST_STEM_CELLS", 6)

    def gains(channels, height, dtype=torch.float32):
        x, weight = torch.zeros(1, channels, height, 2), torch.zeros(64, channels, 3, 3)
        return cpu_layers._gains_by_copies(x.to(dtype), weight)

    of_channels = {channels: gains(channels, 3) for channels in (3, 15, 16, 63, 64, 256)}
    assert of_channels == {3: True, 15: True, 16: False, 63: False, 64: slow, 256: slow}
    assert not gains(3, 2)
    assert not gains(3, 3, torch.bfloat16)
    assert not gains(64, 3, torch.bfloat16)


def are_turned(model):
    return [type(layer) is FastGradientConv2d for layer in model]


def test_only_large_layers_change_and_only_where_the_gradient_is_slow(monkeypatch):
    model = nn.Sequential(
        Conv2d(64, 64, 3, padding=1),
        Conv2d(64, 64, 1),
        Conv2d(32, 64, 3),
        Conv2d(64, 32, 3),
        Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 64, 3),
        Conv2d(64, 64, 3, padding="same"),
    )
    before = list(model.state_dict())
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: False)
    monkeypatch.setattr(cpu_layers, "has_slow_channels_last_gradient", lambda: False)
    speed_up_gradients(model)
    assert are_turned(model) == [False] * 7
    monkeypatch.setattr(cpu_layers, "has_slow_channels_last_gradient", lambda: True)
    speed_up_gradients(model)
    assert are_turned(model) == [True] + [False] * 6
    assert list(model.state_dict()) == before


def test_where_the_gradient_is_fast_only_layers_for_winograd_change(gradients, monkeypatch):
    model = nn.Sequential(
        Conv2d(256, 256, 3, padding=1),
        Conv2d(256, 256, 3, 2, padding=1),
        Conv2d(256, 128, 3, padding=1),
    ).to(memory_format=CHANNELS_LAST)
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: True)
    monkeypatch.setattr(cpu_layers, "has_slow_channels_last_gradient", lambda: False)
    speed_up_gradients(model)
    assert are_turned(model) == [True, False, False]
    x = torch.randn(1, 256, 40, 40).contiguous(memory_format=CHANNELS_LAST)
    model(x).sum().backward()
    assert gradients.call_count == 1


def test_a_training_on_a_cpu_has_them(row_config, monkeypatch):
    cfg = row_config("quick/RPN/rpn_R_18_FPN", "MODEL.WEIGHTS", "")
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: False)
    for slow in (False, True):
        monkeypatch.setattr(cpu_layers, "has_slow_channels_last_gradient", lambda slow=slow: slow)
        layers = [m for m in Trainer.build_model(cfg).modules() if type(m) is FastGradientConv2d]
        layers = [layer for layer in layers if not layer.of_samples]
        assert {layer.in_channels > 3 for layer in layers} == ({True, False} if slow else {False})


@pytest.mark.parametrize("batch", [1, 2])
def test_the_stem_of_a_huge_image_has_a_gradient_of_copies(batch, gradients, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: False)
    monkeypatch.setattr(cpu_layers, "has_slow_channels_last_gradient", lambda: False)
    monkeypatch.setattr(cpu_layers, "_LEAST_STEM_CELLS", 40 * 40)
    stem = Conv2d(3, 8, 7, 2, 3, bias=False, norm=FrozenBatchNorm2d(8))
    fast = nn.Sequential(copy.deepcopy(stem), Conv2d(16, 8, 3)).to(memory_format=CHANNELS_LAST)
    speed_up_gradients(fast)
    assert are_turned(fast) == [True, False]
    for side, used in ((39, 0), (40, 1)):  # unlike its model, a batch is not channels-last
        gradients.reset_mock()
        x = torch.randn(batch, 3, side, side)
        found, expected = fast[0](x), stem(x)
        assert found.is_contiguous(memory_format=CHANNELS_LAST)
        torch.testing.assert_close(found, expected)
        of = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, fast[0].weight, of),
            torch.autograd.grad(expected, stem.weight, of),
            rtol=1e-4,
            atol=1e-4,
        )
        assert gradients.call_count == used
