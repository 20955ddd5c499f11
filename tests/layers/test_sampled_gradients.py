"""The gradients of a convolution whose output's gradient is zero at most cells."""

import copy
from unittest.mock import Mock

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import FPN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from fpn_d2.engine import Trainer
from fpn_d2.layers import (
    FastGradientConv2d,
    cpu_layers,
    gradients_at,
    sampled_cells,
    speed_up_gradients,
)
from fpn_d2.utils.modules import recast, to_channels_last

FORMATS = torch.contiguous_format, torch.channels_last
# stride, padding and dilation of kernels of 3 x 3, or 3 x 5 cells
HOWS = [((1, 1), (1, 1), (1, 1)), ((2, 1), (0, 2), (1, 1)), ((1, 3), (3, 1), (2, 1))]


def problem(dtype=torch.float32, memory_format=FORMATS[1], size=(3, 3), how=HOWS[0]):
    """x, weights and a gradient of the output that is zero but at its corners and some cells."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 13, 17).to(dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(5, 6, *size)
    gradient = torch.zeros_like(F.conv2d(x.float(), weight, None, *how)).to(dtype)
    height, width = gradient.shape[2:]
    cells = [(0, 0, 0), (0, 0, width - 1), (1, height - 1, 0), (1, height - 1, width - 1)]
    cells += [(0, 2, 1), (0, 2, 2), (0, 3, 1)]  # their windows overlap
    for image, row, column in cells:
        gradient[image, :, row, column] = torch.randn(5)
    gradient = gradient.contiguous(memory_format=memory_format)
    return torch.tensor(sorted(cells)), gradient, x, weight


def exact_gradients(gradient, x, weight, *how):
    """By PyTorch's sum in double precision: of the input, the weights and a bias."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, bias, *how)
    return torch.autograd.grad(y, (x, weight, bias), gradient.double())


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("size", [(3, 3), (3, 5), (1, 1)])
def test_they_are_the_sums_in_double_precision(size, how, memory_format):
    cells, *tensors = problem(memory_format=memory_format, size=size, how=how)
    found = gradients_at(cells, *tensors, *how, 1)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for computed, exact in zip(found, exact_gradients(*tensors, *how), strict=True):
        torch.testing.assert_close(computed.double(), exact, rtol=0, atol=1e-5)
    assert gradients_at(cells, *tensors, *how, 1, for_x=False)[0] is None


def test_in_bfloat16_only_the_inputs_gradient_is_rounded():
    """Autocast rounds the weights, and the gradient of the input takes them as rounded."""
    cells, gradient, x, weight = problem(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        of_x, *found = gradients_at(cells, gradient, x, weight, *HOWS[0], 1)
    expected, *exact = exact_gradients(gradient, x, weight.bfloat16(), *HOWS[0])
    for computed, of_sum in zip(found, exact, strict=True):
        assert computed.dtype == torch.float32
        torch.testing.assert_close(computed.double(), of_sum, rtol=0, atol=1e-5)
    assert of_x.dtype == torch.bfloat16
    torch.testing.assert_close(of_x.double(), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("batch", [0, 2])
def test_without_a_gradient_all_are_zero(batch):
    x, gradient = torch.randn(batch, 6, 9, 9), torch.zeros(batch, 5, 9, 9)
    cells = sampled_cells(gradient)
    assert cells.shape == (0, 3)
    found = gradients_at(cells, gradient, x, torch.randn(5, 6, 3, 3), *HOWS[0], 1)
    assert [tuple(tensor.shape) for tensor in found] == [tuple(x.shape), (5, 6, 3, 3), (5,)]
    assert not any(tensor.count_nonzero() for tensor in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_cells_of_every_channel_and_value_are_found(memory_format, dtype):
    gradient = torch.zeros(2, 5, 8, 12, dtype=dtype).contiguous(memory_format=memory_format)
    values = [1.0, -1.0, float("nan"), float("inf"), 1e-38]
    expected = [[0, 0, 11], [0, 3, 2], [1, 0, 0], [1, 7, 4], [1, 7, 11]]
    for channel, ((image, row, column), value) in enumerate(zip(expected, values, strict=True)):
        gradient[image, channel, row, column] = value
    gradient[0, 1:3, 6, 6] = torch.tensor([1.0, -1.0])  # whose sum is zero
    expected.insert(2, [0, 6, 6])
    assert sampled_cells(gradient).tolist() == expected


@pytest.mark.parametrize("channel", [0, 3])
def test_more_than_a_sixteenth_are_not_few(channel):
    gradient = torch.zeros(2, 5, 16, 16)  # 512 cells
    gradient[0, channel].view(-1)[:32] = 1
    assert len(sampled_cells(gradient)) == 32
    gradient[1, channel, 0, 0] = 1
    assert sampled_cells(gradient) is None


@pytest.fixture
def counted(monkeypatch):
    """The function of these gradients, which counts its calls."""
    function = Mock(wraps=gradients_at)
    monkeypatch.setattr(cpu_layers, "gradients_at", function)
    return function


def pair(*, of_samples=True, bias=True):
    """A convolution of Detectron2 with an activation, and the fast one."""
    torch.manual_seed(0)
    plain = Conv2d(6, 8, 3, padding=1, bias=bias, activation=nn.functional.relu)
    to_channels_last(plain)
    fast = copy.deepcopy(plain)
    recast(fast, FastGradientConv2d, of_samples=of_samples, least_cells=50)
    return plain, fast


def samples_of(y, few=True):
    """The loss of three cells, or of all."""
    return (y[:, :, 2:6:3, 4] if few else y).float().square().sum()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("of_samples", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_input, bias", [(True, True), (False, True), (True, False)])
def test_a_layer_of_samples_has_detectron2s_gradients(
    counted, few, of_samples, dtype, of_input, bias
):
    """So it has on maps some of which are too small for it."""
    found = []
    for layer in pair(of_samples=of_samples, bias=bias):
        torch.manual_seed(1)
        maps = [torch.randn(2, 6, side, side).requires_grad_(of_input) for side in (20, 6, 19)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = [layer(x) for x in maps]
        assert {y.dtype for y in outputs} == {dtype}
        sum(samples_of(y, few) for y in outputs).backward()
        found.append([*(x.grad for x in maps if of_input), *(p.grad for p in layer.parameters())])
    assert counted.call_count == 2 * (few and of_samples)
    for expected, computed in zip(*found, strict=True):
        assert computed.dtype == expected.dtype
        rtol = 1e-5 if dtype == torch.float32 else 0.01
        assert (computed - expected).norm() <= rtol * expected.norm()


def test_a_penalty_on_their_gradient_is_detectron2s(counted):
    found = []
    for layer in pair():
        torch.manual_seed(1)
        x = torch.randn(2, 6, 20, 20, requires_grad=True)
        (inner,) = torch.autograd.grad(samples_of(layer(x)), x, create_graph=True)
        inner.square().sum().backward()
        found.append([x.grad, layer.weight.grad])
    for expected, computed in zip(*found, strict=True):
        torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def called(layer, x, in_autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=in_autocast):
        return layer(x)


@pytest.mark.parametrize("dtype, in_autocast", [(torch.bfloat16, False), (torch.float64, True)])
def test_what_detectron2s_layer_refuses_has_its_error(dtype, in_autocast):
    x = torch.randn(2, 6, 20, 20, dtype=dtype)
    for layer in pair():
        with pytest.raises(RuntimeError, match="should be the same"):
            called(layer, x, in_autocast)


@pytest.mark.parametrize(
    "name, dtype, in_autocast",
    [
        ("weight", torch.bfloat16, False),
        ("weight", torch.float64, False),
        ("weight", torch.float64, True),
        ("bias", torch.bfloat16, False),
        ("bias", torch.float64, True),
    ],
)
def test_weights_of_another_dtype_have_its_error(name, dtype, in_autocast):
    for layer in pair():
        parameter = getattr(layer, name)
        parameter.data = parameter.data.to(dtype)
        with pytest.raises(RuntimeError, match="should be the same"):
            called(layer, torch.randn(2, 6, 20, 20), in_autocast)


@pytest.mark.parametrize("few", [True, False])
def test_one_image_without_a_batch_has_detectron2s_gradients(few, counted):
    found = []
    for layer in pair():
        torch.manual_seed(1)
        x = torch.randn(6, 20, 20, requires_grad=True)
        samples_of(layer(x)[None], few).backward()
        found.append([x.grad, *(p.grad for p in layer.parameters())])
    assert counted.call_count == 0
    for expected, computed in zip(*found, strict=True):
        assert torch.equal(computed, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_in_other_precisions_detectron2s_layer_computes(dtype, counted):
    found = []
    for layer in pair():
        torch.manual_seed(1)
        x = torch.randn(2, 6, 20, 20, dtype=dtype, requires_grad=True)
        samples_of(layer.to(dtype)(x)).backward()
        found.append([x.grad, *(p.grad for p in layer.parameters())])
    assert counted.call_count == 0
    assert all(map(torch.equal, *found))


def test_the_default_dtype_does_not_matter():
    cells, *tensors = problem()
    expected = gradients_at(cells, *tensors, *HOWS[0], 1)
    torch.set_default_dtype(torch.float64)
    try:
        found = gradients_at(cells, *tensors, *HOWS[0], 1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))


def rpn_config(row_config, *opts):
    return row_config("quick/RPN/rpn_R_18_FPN", "MODEL.WEIGHTS", "", *opts)


@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["MODEL.RPN.CONV_DIMS", [32, 48]],
        ["MODEL.RPN.SHARED_HEAD", False],
        ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN"],
    ],
    ids=["one", "two", "levels", "stock"],
)
def test_a_training_has_them_in_the_rpn_head_and_the_pyramids_outputs(
    row_config, opts, monkeypatch
):
    monkeypatch.setattr(cpu_layers, "has_slow_channels_last_gradient", lambda: True)
    model = Trainer.build_model(rpn_config(row_config, *opts))
    layers = [*model.proposal_generator.rpn_head.modules(), *model.backbone.output_convs]
    of_samples = {m for m in model.modules() if getattr(m, "of_samples", False)}
    wide = {m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
    assert len(wide) > 4
    assert of_samples == wide


def test_a_pyramid_may_have_other_outputs():
    """Such as a subclass of its own constructor, which names none."""

    class Other(FPN):
        def __init__(self):
            nn.Module.__init__(self)
            self.ends = nn.ModuleList([Conv2d(16, 16, 3)])

    model = Other()
    speed_up_gradients(model)
    assert type(model.ends[0]) is Conv2d


def test_an_rpn_has_the_gradients_of_all_cells(row_config, counted):
    model = Trainer.build_model(rpn_config(row_config))
    instances = Instances((256, 256), gt_boxes=Boxes([[20.0, 30.0, 120.0, 150.0]]))
    image = torch.randint(256, (3, 256, 256)).float()
    inputs = [{"image": image, "instances": instances, "height": 256, "width": 256}]
    losses, gradients = [], []
    layers = [layer for layer in model.modules() if getattr(layer, "of_samples", False)]
    for of_samples in (False, True):
        for layer in layers:
            layer.of_samples = of_samples
        torch.manual_seed(0)  # decides the samples
        model.zero_grad()
        with EventStorage():
            losses.append(model.train()(inputs))
        sum(losses[-1].values()).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        assert bool(counted.call_count) == of_samples
    assert losses[0] == losses[1]
    for expected, found in zip(*gradients, strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm()
