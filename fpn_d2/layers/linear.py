"""Matrix products and linear layers that CPUs compute faster than PyTorch's.

PyTorch multiplies float32 matrices by MKL, which does not use AVX-512 on AMD's processors. Where
units are 512 bits wide (Zen 5), oneDNN takes less than half the time.

Shape shorthand: N rows, C columns in and D out.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from ..utils.devices import has_slow_matmul
from ..utils.modules import recast

# For smaller linear layers or fewer rows, a call costs more than the product.
_LEAST_WEIGHTS = 2**19
_LEAST_ROWS = 64


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply matrices (N, C) and (C, D), and add a bias (D,)."""
    if by_onednn(a, b):  # the operator that torch.compile calls for linear layers
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)


def by_onednn(*factors: Tensor) -> bool:
    """Whether oneDNN multiplies tensors, faster than MKL but without a gradient."""
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in factors)
    return has_slow_matmul() and torch.backends.mkldnn.enabled and not needs_gradient


def products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices (36, N, C) and (36, C, D)."""
    if by_onednn(a, b):
        return torch.stack([product(*pair) for pair in zip(a, b, strict=True)])
    return torch.bmm(a, b)


def _product_of_rows(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as :func:`product` does, in two steps if N is no multiple of 64.

    For each number of rows oneDNN makes a program and keeps it, with several MB.
    """
    rest = len(a) % _LEAST_ROWS
    if not rest:
        return product(a, b, bias)
    last = product(a[-_LEAST_ROWS:], b, bias)
    return torch.cat([product(a[:-rest], b, bias), last[-rest:]])


def _product_over_rows(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices (D, N) and (N, C), in two steps if N is no multiple of 64."""
    rest = len(b) % _LEAST_ROWS
    if not rest:
        return product(a, b)
    return product(a[:, :-rest], b[:-rest]).addmm_(a[:, -rest:], b[-rest:])


class _Linear(torch.autograd.Function):
    """A linear layer: x (N, C), weight (D, C), bias (D,)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _product_of_rows(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product_of_rows(gradient, weight) if for_x else None,
            _product_over_rows(gradient.t(), x) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


class FastLinear(nn.Linear):
    """An :class:`nn.Linear` that oneDNN computes; it equals the plain layer up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`nn.Linear`; (N, C) to (N, D).

        Few rows, other precisions, traces and compiled models take the plain layer.
        """
        if (
            torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or x.device.type != "cpu"
            or x.ndim != 2
            or len(x) < _LEAST_ROWS
            or x.shape[1] != self.in_features
            or not x.is_contiguous()
            or {x.dtype, self.weight.dtype} != {torch.float32}
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        return _Linear.apply(x, self.weight, self.bias)


def speed_up_linears(model: nn.Module) -> None:
    """Turn a model's large linear layers into :class:`FastLinear`, in place.

    It does nothing on CPUs where :func:`fpn_d2.utils.devices.has_slow_matmul` is False. Weights and
    their names stay.
    """
    if not has_slow_matmul():
        return
    for layer in model.modules():
        if (
            type(layer) is nn.Linear
            and layer.weight.device.type == "cpu"
            and layer.weight.dtype == torch.float32
            and layer.weight.numel() >= _LEAST_WEIGHTS
        ):
            recast(layer, FastLinear)
