"""Winograd's convolution is the sum over the kernel, and so are its gradients."""

import threading
from unittest.mock import Mock

import pytest
import torch
from torch.nn import functional as F

from fpn_d2.layers import (
    conv2d_by_winograd,
    cpu_kernels,
    has_winograd,
    transform_kernel,
    weight_gradient_by_winograd,
)

FORMATS = torch.contiguous_format, torch.channels_last
SIZES = [(1, 3, 5, 4, 4), (2, 5, 3, 1, 1), (2, 16, 8, 13, 9), (3, 4, 4, 6, 31), (0, 3, 2, 5, 5)]
HOW = (1, 1), (1, 1), (1, 1), 1


@pytest.fixture(params=["MKL", "oneDNN"], autouse=True)
def library(request, monkeypatch):
    """Each library that multiplies the matrices."""
    if request.param == "oneDNN" and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("PyTorch has no oneDNN here")
    monkeypatch.setattr(cpu_kernels, "has_slow_matmul", lambda: request.param == "oneDNN")


def error(found, exact):
    """The error of a tensor as a share of its size."""
    return ((found.double() - exact).norm() / exact.norm()).item()


def problem(batch, channels, channels_out, height, width, memory_format=FORMATS[1]):
    """x, weights, bias and the gradient of the output."""
    torch.manual_seed(0)
    x = torch.randn(batch, channels, height, width).contiguous(memory_format=memory_format)
    gradient = torch.randn(batch, channels_out, height, width)
    weight = torch.randn(channels_out, channels, 3, 3) / (9 * channels) ** 0.5
    return x, weight, torch.randn(channels_out), gradient.contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_sum_in_double_precision(size, memory_format):
    x, weight, bias, _ = problem(*size, memory_format)
    for b in (bias, None):
        exact = F.conv2d(x.double(), weight.double(), None if b is None else b.double(), padding=1)
        found = conv2d_by_winograd(x, transform_kernel(weight), b)
        assert found.shape == exact.shape
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-5)


def test_a_transformed_kernel_has_a_gradient():
    weight = torch.randn(3, 5, 3, 3, requires_grad=True)
    transform_kernel(weight).sum().backward()
    of_cell = (cpu_kernels._OF_KERNEL.sum(dim=0)).view(3, 3)
    torch.testing.assert_close(weight.grad, of_cell.expand_as(weight))


@pytest.mark.parametrize("tiles", [1, 3, 512])
@pytest.mark.parametrize("size", SIZES)
def test_strips_of_any_height_are_the_whole(size, tiles, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_TILES", tiles)
    x, weight, bias, gradient = problem(*size)
    exact = weight.double().requires_grad_()
    F.conv2d(x.double(), exact, padding=1).backward(gradient.double())
    torch.testing.assert_close(
        weight_gradient_by_winograd(x, gradient).double(), exact.grad, rtol=0, atol=2e-4
    )
    expected = F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(
        conv2d_by_winograd(x, transform_kernel(weight), bias), expected, rtol=0, atol=5e-5
    )


def test_a_kernel_of_a_single_cell_moves_the_map():
    x = torch.randn(1, 1, 6, 7)
    for row, column in ((0, 0), (1, 1), (2, 0)):
        weight = torch.zeros(1, 1, 3, 3)
        weight[0, 0, row, column] = 1
        expected = F.pad(x, (1, 1, 1, 1))[..., row : row + 6, column : column + 7]
        torch.testing.assert_close(
            conv2d_by_winograd(x, transform_kernel(weight)), expected, atol=1e-5, rtol=0
        )


def test_the_transforms_are_an_identity_in_integers():
    """One dimension: A^T [(G g) * (B^T d)] is the correlation of d and g."""
    for place in range(6):
        for cell in range(3):
            of_input = torch.tensor(cpu_kernels._INPUT)[:, place]
            of_kernel = torch.tensor(cpu_kernels._KERNEL_24)[:, cell]
            found = torch.tensor(cpu_kernels._OUTPUT) @ (of_input * of_kernel)
            expected = [24 * (place == out + cell) for out in range(4)]
            assert found.tolist() == expected


@pytest.mark.parametrize("band", [1, 300, 2**25])
@pytest.mark.parametrize("strip", [1, 100, 2**20])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_in_bfloat16_it_is_the_sum_up_to_its_rounding(
    size, memory_format, strip, band, monkeypatch
):
    """Some factors, sums and the result are rounded, each by up to 2^-9 of its value."""
    monkeypatch.setattr(cpu_kernels, "_STRIP", strip)
    monkeypatch.setattr(cpu_kernels, "_BAND", band)
    x, weight, bias, gradient = problem(*size, memory_format)
    x, gradient = x.bfloat16(), gradient.bfloat16()
    exact = weight.double().requires_grad_()
    own = x.double().requires_grad_()
    for b in (bias, None):
        expected = F.conv2d(own, exact, None if b is None else b.double(), padding=1)
        kernel = transform_kernel(weight, torch.bfloat16)
        found = conv2d_by_winograd(x, kernel, b)
        assert (found.shape, found.dtype) == (expected.shape, torch.bfloat16)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert len(x) == 0 or error(found, expected) < 0.01
    expected.backward(gradient.double())
    of_weight = weight_gradient_by_winograd(x, gradient)
    assert (of_weight.shape, of_weight.dtype) == (weight.shape, torch.float32)
    turned = transform_kernel(weight.flip(2, 3).transpose(0, 1), torch.bfloat16)
    if len(x):
        assert error(of_weight, exact.grad) < 0.01
        assert error(conv2d_by_winograd(gradient, turned), own.grad) < 0.01
    else:
        assert of_weight.count_nonzero() == 0


def test_its_rounding_in_bfloat16_is_three_times_the_sums():
    """Transforms in bfloat16 instead of float32, of the kernel or the output, would add 15 %."""
    x, weight, _, gradient = problem(1, 32, 32, 60, 101)
    x, gradient = x.bfloat16(), gradient.bfloat16()
    exact = weight.double().requires_grad_()
    expected = F.conv2d(x.double(), exact, padding=1)
    expected.backward(gradient.double())
    plain = error(F.conv2d(x, weight.bfloat16(), padding=1), expected)
    found = error(conv2d_by_winograd(x, transform_kernel(weight, torch.bfloat16)), expected)
    assert plain < found < 3 * plain < 0.007
    assert error(weight_gradient_by_winograd(x, gradient), exact.grad) < 0.0065


def test_autocast_changes_nothing():
    """A training's backward pass is within autocast."""
    x, weight, bias, gradient = problem(2, 16, 8, 13, 9)
    for dtype in (torch.float32, torch.bfloat16):
        found = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                kernel = transform_kernel(weight, dtype)
                of_weight = weight_gradient_by_winograd(x.to(dtype), gradient.to(dtype))
                found.append([kernel, of_weight, conv2d_by_winograd(x.to(dtype), kernel, bias)])
        for plain, in_autocast in zip(*found, strict=True):
            assert in_autocast.dtype == plain.dtype
            assert in_autocast.equal(plain)


def test_what_is_computed_at_once_from_a_huge_map_is_bounded(monkeypatch):
    """By bands of two rows of 9 cells, and a row more on each side."""
    monkeypatch.setattr(cpu_kernels, "_BAND", 2 * 9 * 16)
    evaluated = Mock(wraps=cpu_kernels._evaluate)
    monkeypatch.setattr(cpu_kernels, "_evaluate", evaluated)
    x, weight, _, gradient = problem(2, 16, 16, 13, 9)
    conv2d_by_winograd(x.bfloat16(), transform_kernel(weight, torch.bfloat16))
    weight_gradient_by_winograd(x.bfloat16(), gradient.bfloat16())
    of_input, of_output = [3, *[4] * 5, 2] * 2, [*[2] * 6, 1] * 2
    in_turn = [rows for pair in zip(of_input, of_output, strict=True) for rows in pair]
    assert [len(call.args[0]) for call in evaluated.call_args_list] == [*of_input, *in_turn]


def test_a_thread_in_float32_leaves_the_autocast_of_another_alone(monkeypatch):
    x, weight, *_ = problem(*SIZES[0])
    kernel = transform_kernel(weight)

    def meanwhile(*_):
        other = threading.Thread(target=conv2d_by_winograd, args=(x, kernel))
        other.start()
        other.join()

    monkeypatch.setattr(cpu_kernels, "_convolve_rows", meanwhile)
    with torch.autocast("cpu", torch.bfloat16):
        conv2d_by_winograd(x.bfloat16(), transform_kernel(weight, torch.bfloat16))
        assert torch.is_autocast_enabled("cpu")


def test_the_transforms_of_rows_are_an_identity():
    """A^T [(G g) * (B^T d)] is the correlation of d and g, and A transposes A^T."""
    cells, outputs = torch.eye(6).double(), torch.eye(4).double()
    of_input = torch.stack([*cpu_kernels._at_input(cells)])  # point, cell
    for tap in range(3):
        at_points = of_input * cpu_kernels._OF_KERNEL_ROW[:, tap : tap + 1]
        found = torch.stack([*cpu_kernels._cells(at_points)])
        expected = torch.eye(6)[tap : tap + 4].double()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    of_output = torch.stack([*cpu_kernels._at_output(outputs)])
    torch.testing.assert_close(
        of_output.t(), torch.stack([*cpu_kernels._cells(torch.eye(6).double())])
    )


@pytest.mark.parametrize(
    ("x", "weight", "how", "expected"),
    [
        ((1, 256, 40, 40), (256, 256, 3, 3), HOW, True),
        ((1, 256, 30, 40), (256, 256, 3, 3), HOW, False),
        ((1, 256, 40, 40), (128, 256, 3, 3), HOW, False),
        ((1, 256, 40, 40), (256, 256, 1, 1), HOW, False),
        ((1, 256, 40, 40), (256, 256, 3, 3), ((2, 2), (1, 1), (1, 1), 1), False),
        ((1, 256, 40, 40), (256, 256, 3, 3), ((1, 1), (0, 0), (1, 1), 1), False),
        ((1, 256, 40, 40), (256, 256, 3, 3), ((1, 1), (2, 2), (2, 2), 1), False),
        ((1, 256, 40, 40), (256, 256, 3, 3), ((1, 1), (1, 1), (2, 2), 1), False),
        ((1, 512, 40, 40), (512, 256, 3, 3), ((1, 1), (1, 1), (1, 1), 2), False),
    ],
)
def test_only_wide_3_by_3_convolutions_of_large_maps_have_it(x, weight, how, expected, monkeypatch):
    x, weight = torch.zeros(x), torch.zeros(weight)
    monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda *_: True)
    assert has_winograd(x, weight, *how) is expected
    assert not has_winograd(x[0], weight, *how)  # a map without a batch
    assert not has_winograd(x.double(), weight.double(), *how)
    assert not has_winograd(x.half(), weight.half(), *how)
    half = x.bfloat16().repeat(1, 1, 1, 12000 // (40 * 40) + 1)  # a larger map
    for dtype in (torch.float32, torch.bfloat16):  # of the weights
        with torch.autocast("cpu", torch.bfloat16):
            assert has_winograd(half, weight.to(dtype), *how) is expected
            assert not has_winograd(x.bfloat16(), weight.to(dtype), *how)
    assert has_winograd(half, weight.bfloat16(), *how) is expected
    assert not has_winograd(half, weight, *how)  # which no convolution takes
    with torch.autocast("cpu", torch.bfloat16):
        assert not has_winograd(half, weight.double(), *how)
    assert not has_winograd(x, weight.bfloat16(), *how)
    assert not has_winograd(x.to("meta"), weight.to("meta"), *how)
    for gains in (torch.float32, torch.bfloat16, None):
        monkeypatch.setattr(cpu_kernels, "gains_by_winograd", lambda dtype, of=gains: dtype == of)
        assert has_winograd(x, weight, *how) is (expected and gains == torch.float32)
        assert has_winograd(half, weight.bfloat16(), *how) is (expected and gains == torch.bfloat16)
