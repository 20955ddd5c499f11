"""Linear layers by oneDNN equal nn.Linear."""

import copy
import pickle
from unittest.mock import Mock

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from fpn_d2.engine import Trainer
from fpn_d2.inference import prepare_model
from fpn_d2.layers import FastLinear, cpu_kernels, cpu_layers, speed_up_linears
from fpn_d2.utils.modules import recast

ROWS = cpu_layers._LEAST_ROWS


@pytest.fixture
def onednn(monkeypatch):
    """oneDNN's product, which counts its calls, also where MKL would be as fast."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("PyTorch has no oneDNN here")
    monkeypatch.setattr(cpu_kernels, "has_slow_matmul", lambda: True)
    counted = Mock(wraps=torch.ops.mkldnn._linear_pointwise)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return counted


def pair(bias=True):
    torch.manual_seed(0)
    plain = nn.Linear(96, 40, bias=bias)
    fast = copy.deepcopy(plain)
    recast(fast, FastLinear)
    return plain, fast


@pytest.mark.parametrize("rows", [2 * ROWS, 2 * ROWS + 1, 3 * ROWS - 1, ROWS])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_linear_layer_forward_and_backward(bias, rows, onednn):
    plain, fast = pair(bias)
    inputs = [torch.randn(rows, 96, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    gradient = torch.randn(rows, 40)
    found = []
    for layer, x in zip((plain, fast), inputs, strict=True):
        y = layer(x)
        y.backward(gradient)
        found.append([y, x.grad, *(p.grad for p in layer.parameters())])
    # The output and two gradients: oneDNN keeps a program for each number of rows.
    assert onednn.call_count == (3 if rows % ROWS == 0 else 5)
    shapes = [shape for call in onednn.call_args_list for shape in call.args[0].shape]
    assert {side for side in shapes if side not in (96, 40)} <= {ROWS, 2 * ROWS}
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
        torch.randn(96 + ROWS).unfold(0, 96, 1),
    ],
    ids=["few", "none", "one", "batched", "double", "overlapping"],
)
def test_what_gains_nothing_is_the_plain_layer(x, onednn):
    plain, fast = (layer.to(x.dtype) for layer in pair())
    assert torch.equal(fast(x), plain(x))
    assert not onednn.called


def test_other_precisions_and_traces_are_the_plain_layer(onednn):
    plain, fast = pair()
    x = torch.randn(ROWS, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), plain(x))
    graph = str(torch.jit.trace(fast, x, check_trace=False).inlined_graph)
    assert "aten::linear" in graph
    assert not onednn.called


def test_it_has_a_second_derivative(onednn):
    found = []
    for layer in pair():
        x = torch.linspace(-1, 1, 96 * ROWS).reshape(ROWS, 96).requires_grad_()
        slopes = torch.autograd.grad(layer(x).pow(3).sum(), [x, layer.weight], create_graph=True)
        found.append(torch.autograd.grad(sum(s.pow(2).sum() for s in slopes), [x, layer.weight]))
    assert onednn.called
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def test_what_no_layer_takes_has_pytorchs_error(onednn):
    _, layer = pair()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.randn(ROWS, 97))
    with pytest.raises(RuntimeError, match="dtype"):
        layer.bfloat16()(torch.randn(ROWS, 96))
    assert not onednn.called


def test_onednn_can_be_switched_off(onednn):
    plain, fast = pair()
    x = torch.randn(ROWS, 96)
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-4, atol=1e-4)
    assert not onednn.called


class Own(nn.Linear):
    """Somebody's own, which may compute something else."""


def test_only_large_layers_change_and_only_where_products_are_slow(monkeypatch):
    torch.manual_seed(0)
    others = Own(1024, 1024), nn.Linear(1024, 8), nn.Linear(1024, 1024).double()
    model = nn.Sequential(nn.Linear(1024, 1024), *others)
    monkeypatch.setattr(cpu_layers, "has_slow_matmul", lambda: False)
    speed_up_linears(model)
    assert [type(layer) for layer in model] == [nn.Linear, Own, nn.Linear, nn.Linear]
    monkeypatch.setattr(cpu_layers, "has_slow_matmul", lambda: True)
    before = list(model.state_dict())
    speed_up_linears(model)
    assert [type(layer) for layer in model] == [FastLinear, Own, nn.Linear, nn.Linear]
    assert list(model.state_dict()) == before
    assert type(pickle.loads(pickle.dumps(model))[0]) is FastLinear


def test_models_have_it_in_testing_and_in_training(row_config, monkeypatch):
    cfg = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", "MODEL.WEIGHTS", "")
    for slow, kind in ((False, nn.Linear), (True, FastLinear)):
        monkeypatch.setattr(cpu_layers, "has_slow_matmul", lambda slow=slow: slow)
        plain, trained = build_model(cfg), Trainer.build_model(cfg)
        assert type(trained.roi_heads.box_head.fc1) is kind
        for model in (plain, trained, copy.deepcopy(trained)):
            prepared = prepare_model(model).model
            assert type(prepared.roi_heads.box_head.fc1) is kind
            assert type(prepared.roi_heads.box_predictor.cls_score) is nn.Linear
        assert type(plain.roi_heads.box_head.fc1) is nn.Linear
