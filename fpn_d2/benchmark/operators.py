"""RoIAlign over the pyramid; a linear layer as a convolution; and mask proposals against an image
pyramid of the same head."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..config import load_config
from ..inference import prepare_model
from ..layers import ConvolvedLinear
from ..modeling import LevelROIPooler
from ..utils.devices import has_slow_matmul
from .measure import compare, is_timed_here, row
from .networks import SIZE, image_record, settle_norms
from .precisions import DTYPES, PRECISIONS, variants_of

__all__ = ["benchmark_linear", "benchmark_mask_proposals", "benchmark_pooling"]


def benchmark_pooling(
    device: str, rounds: int, count: int = 1000, size: tuple[int, int] = SIZE
) -> list[dict[str, Any]]:
    """Time the pooling of boxes, 7 x 7 bins, adaptive sampling, 256 channels, P2 to P5.

    Args:
        device: "cpu" or "cuda".
        rounds: how often.
        count: of the boxes.
        size: of the image, which is padded to multiples of 32.

    Returns:
        rows; ``max_error`` is relative to the largest value. The backward pass is of a random
        gradient.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-side // 32) * 32 for side in size)
    shapes = [(1, 256, height // s, width // s) for s in (4, 8, 16, 32)]
    levels = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    boxes = [Boxes(_boxes(count, size, generator).to(device))]
    arguments = (7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")
    stock, ours = ROIPooler(*arguments), LevelROIPooler(*arguments, backend="gather")
    gradient = torch.randn(count, 256, 7, 7, generator=generator).to(device)
    variants = variants_of(device)
    inputs = {"detectron2": (stock, levels, gradient)}
    for variant in variants:
        kind = {"dtype": DTYPES[variant], "memory_format": torch.channels_last}
        inputs[variant] = ours, [level.to(**kind) for level in levels], gradient.to(**kind)
    rows = []
    for way, make in (("forward", _forward), ("forward and backward", _backward)):
        calls = {name: make(pooler, x, boxes, y) for name, (pooler, x, y) in inputs.items()}
        timings = compare(calls, rounds, device, variants)
        if is_timed_here(memory_kept=False):
            results = {name: call() for name, call in calls.items()}
            for variant in variants:
                error = _largest_share(results[variant], results["detectron2"])
                pair = timings[variant], "detectron2", timings["detectron2"]
                rows.append(row("pooling", f"{variant} {way}", *pair, error))
    return rows


def _forward(
    pooler: ROIPooler, levels: list[Tensor], boxes: list[Boxes], _: Tensor
) -> Callable[[], Sequence[Tensor]]:
    return lambda: [pooler(levels, boxes)]


def _backward(
    pooler: ROIPooler, levels: list[Tensor], boxes: list[Boxes], gradient: Tensor
) -> Callable[[], Sequence[Tensor]]:
    leaves = [level.detach().requires_grad_() for level in levels]
    return lambda: torch.autograd.grad(pooler(leaves, boxes), leaves, gradient)


def _largest_share(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(
        float((a.float() - b).abs().max() / b.abs().max())
        for a, b in zip(found, expected, strict=True)
    )


def _boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Boxes of 16 to 512 px, from 1:2 to 2:1, on the image."""
    scale = 2 ** (4 + 5 * torch.rand(count, 1, generator=generator))
    aspect = 2 ** (torch.rand(count, 1, generator=generator) - 0.5)
    sides = torch.cat([scale * aspect, scale / aspect], dim=1)
    limit = torch.tensor([size[1], size[0]])
    center = torch.rand(count, 2, generator=generator) * limit
    corners = torch.stack([center - sides / 2, center + sides / 2], dim=1)
    return torch.minimum(corners.clamp(min=0), limit).flatten(1)


def benchmark_linear(device: str, rounds: int, count: int = 1000) -> list[dict[str, Any]]:
    """Time the box head's first layer, 12544 to 1024 channels, as a convolution, in float32.

    Args:
        device: "cpu" or "cuda".
        rounds: how often.
        count: of the boxes.

    Returns:
        rows as :func:`benchmark_pooling`'s; none where no layer is convolved
        (:func:`fpn_d2.utils.devices.has_slow_matmul`).
    """
    if device != "cpu" or not has_slow_matmul():
        return []
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    plain = nn.Linear(256 * 7 * 7, 1024).to(device)
    layers = {"detectron2": plain, "fp32": copy.deepcopy(plain)}
    layers["fp32"].__class__ = ConvolvedLinear
    x = torch.randn(count, plain.in_features, generator=generator).to(device).requires_grad_()
    gradient = torch.randn(count, plain.out_features, generator=generator).to(device)

    def forward(layer: nn.Linear) -> Sequence[Tensor]:
        with torch.no_grad():
            return [layer(x)]

    def backward(layer: nn.Linear) -> Sequence[Tensor]:
        return torch.autograd.grad(layer(x), [x, *layer.parameters()], gradient)

    rows = []
    for way, call in (("forward", forward), ("forward and backward", backward)):
        calls = {name: functools.partial(call, layer) for name, layer in layers.items()}
        timings = compare(calls, rounds, device, memory_kept=calls)  # of both
        if is_timed_here(memory_kept=False):
            error = _largest_share(calls["fp32"](), calls["detectron2"]())
            pair = timings["fp32"], "detectron2", timings["detectron2"]
            rows.append(row("linear", f"fp32 {way}", *pair, error))
    return rows


def benchmark_mask_proposals(
    configs: Path, device: str, rounds: int, size: tuple[int, int] = SIZE
) -> list[dict[str, Any]]:
    """Time Table 6's MLPs on the pyramid against an image pyramid of the one of 5x5.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        rounds: how often.
        size: of the image.

    Returns:
        rows, see :func:`fpn_d2.benchmark.measure.row`, without ``max_error``: the outputs are
        others.
    """
    opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    inputs = [image_record(0, size)]
    models = {}
    for name in ("5x5", "dual", "image_pyramid"):
        cfg = load_config(configs / "Mask-Proposals" / f"mask_R_50_{name}.yaml", opts)
        torch.manual_seed(0)
        models[name] = model = build_model(cfg.clone()).eval()
        settle_norms(model, lambda model=model: model(inputs))
    rows = []
    for variant in variants_of(device):
        ready = {n: prepare_model(m, precision=PRECISIONS[variant]) for n, m in models.items()}
        calls = {n: lambda m=m: m(inputs) for n, m in ready.items()}
        timings = compare(calls, rounds, device, memory_kept=calls)
        theirs = timings["image_pyramid"]
        for name in ("5x5", "dual"):
            task = "mask_proposals", f"{variant} {name}"
            rows.append(row(*task, timings[name], "image_pyramid", theirs, None))
    return rows
