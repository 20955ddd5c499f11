"""Convolved linear layers equal nn.Linear."""

import copy
import pickle
from unittest.mock import Mock

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from fpn_d2.engine import Trainer
from fpn_d2.inference import prepare_model
from fpn_d2.layers import ConvolvedLinear, convolve_linears, cpu_layers
from fpn_d2.utils.modules import recast

ROWS = cpu_layers._LEAST_ROWS


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def convolutions(monkeypatch):
    """PyTorch's convolution, which counts its calls."""
    counted = Mock(wraps=cpu_layers.F.conv2d)
    monkeypatch.setattr(cpu_layers.F, "conv2d", counted)
    return counted


def pair(bias=True):
    torch.manual_seed(0)
    plain = nn.Linear(96, 40, bias=bias)
    convolved = copy.deepcopy(plain)
    recast(convolved, ConvolvedLinear)
    return plain, convolved


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_linear_layer_forward_and_backward(bias, two_threads, convolutions):
    plain, convolved = pair(bias)
    inputs = [torch.randn(2 * ROWS, 96, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    gradient = torch.randn(2 * ROWS, 40)
    found = []
    for layer, x in zip((plain, convolved), inputs, strict=True):
        y = layer(x)
        y.backward(gradient)
        found.append([y, x.grad, *(p.grad for p in layer.parameters())])
    assert convolutions.call_count == 1
    assert found[1][0].stride() == found[0][0].stride()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(ROWS - 1, 96),
        torch.randn(0, 96),
        torch.randn(96),
        torch.randn(2, ROWS, 96),
        torch.randn(ROWS, 96, dtype=torch.float64),
    ],
    ids=["few", "none", "one", "batched", "double"],
)
def test_what_gains_nothing_is_the_plain_layer(x, two_threads, convolutions):
    plain, convolved = (layer.to(x.dtype) for layer in pair())
    assert torch.equal(convolved(x), plain(x))
    assert not convolutions.called


def test_other_precisions_and_traces_are_the_plain_layer(two_threads, convolutions):
    plain, convolved = pair()
    x = torch.randn(ROWS, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolved(x), plain(x))
    graph = str(torch.jit.trace(convolved, x, check_trace=False).inlined_graph)
    assert "linear" in graph
    assert "convolution" not in graph
    assert not convolutions.called


class Own(nn.Linear):
    """Somebody's own, which may compute something else."""


def test_only_large_layers_change_and_only_where_products_are_slow(monkeypatch):
    torch.manual_seed(0)
    others = Own(1024, 1024), nn.Linear(1024, 8), nn.Linear(1024, 1024).double()
    model = nn.Sequential(nn.Linear(1024, 1024), *others)
    monkeypatch.setattr(cpu_layers, "has_slow_matmul", lambda: False)
    convolve_linears(model)
    assert [type(layer) for layer in model] == [nn.Linear, Own, nn.Linear, nn.Linear]
    monkeypatch.setattr(cpu_layers, "has_slow_matmul", lambda: True)
    before = list(model.state_dict())
    convolve_linears(model)
    assert [type(layer) for layer in model] == [ConvolvedLinear, Own, nn.Linear, nn.Linear]
    assert list(model.state_dict()) == before
    assert type(pickle.loads(pickle.dumps(model))[0]) is ConvolvedLinear


def test_models_are_convolved_in_testing_and_in_training(row_config, monkeypatch):
    cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", "MODEL.WEIGHTS", "")
    for slow, kind in ((False, nn.Linear), (True, ConvolvedLinear)):
        monkeypatch.setattr(cpu_layers, "has_slow_matmul", lambda slow=slow: slow)
        plain, trained = build_model(cfg), Trainer.build_model(cfg)
        assert type(trained.roi_heads.box_head.fc1) is kind
        for model in (plain, trained, copy.deepcopy(trained)):
            prepared = prepare_model(model).model
            assert type(prepared.roi_heads.box_head.fc1) is kind
            assert type(prepared.roi_heads.box_predictor.cls_score) is nn.Linear
        assert type(plain.roi_heads.box_head.fc1) is nn.Linear
