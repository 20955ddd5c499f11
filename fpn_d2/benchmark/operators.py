"""RoIAlign over the pyramid, and mask proposals against an image pyramid of the same head."""

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from ..config import load_config
from ..export import prepare_model
from ..modeling import FPNROIPooler
from .detectors import DTYPES, HEIGHT, PRECISIONS, WIDTH, variants_of
from .measure import compare, row

__all__ = ["benchmark_mask_proposals", "benchmark_pooling"]


def benchmark_pooling(device: str, rounds: int, count: int = 1000) -> list[dict[str, Any]]:
    """Time the pooling of boxes, 7 x 7 bins, adaptive sampling, 256 channels, P2 to P5.

    Args:
        device: "cpu" or "cuda".
        rounds: how often.
        count: of the boxes.

    Returns:
        rows; ``max_error`` is relative to the largest value. The backward pass is of a random
        gradient.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 256, HEIGHT // s, 1088 // s) for s in (4, 8, 16, 32)]
    levels = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    boxes = [Boxes(_boxes(count, generator).to(device))]
    arguments = (7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")
    stock, ours = ROIPooler(*arguments), FPNROIPooler(*arguments, backend="gather")
    gradient = torch.randn(count, 256, 7, 7, generator=generator).to(device)
    last = torch.channels_last
    rows = []
    for variant in variants_of(device):
        dtype = DTYPES[variant]
        inputs = {
            "detectron2": (stock, levels, gradient),
            "ours": (
                ours,
                [level.to(dtype).to(memory_format=last) for level in levels],
                gradient.to(dtype).to(memory_format=last),
            ),
        }
        expected = stock(levels, boxes)
        found = ours(inputs["ours"][1], boxes)
        error = float((found.float() - expected).abs().max() / expected.abs().max())
        calls = {
            name: lambda pooler=pooler, x=x: pooler(x, boxes)
            for name, (pooler, x, _) in inputs.items()
        }
        timings = compare(calls, rounds, device, ["ours"])
        task = "pooling", f"{variant} forward"
        rows.append(row(*task, timings["ours"], "detectron2", timings["detectron2"], error))
        calls = {}
        for name, (pooler, x, y) in inputs.items():
            leaves = [level.clone(memory_format=torch.preserve_format) for level in x]
            leaves = [level.requires_grad_() for level in leaves]
            calls[name] = lambda pooler=pooler, x=leaves, y=y: torch.autograd.grad(
                pooler(x, boxes), x, y
            )
        grads = {name: call() for name, call in calls.items()}
        error = max(
            float((a.float() - b).abs().max() / b.abs().max())
            for a, b in zip(grads["ours"], grads["detectron2"], strict=True)
        )
        timings = compare(calls, rounds, device, ["ours"])
        task = "pooling", f"{variant} forward and backward"
        rows.append(row(*task, timings["ours"], "detectron2", timings["detectron2"], error))
    return rows


def _boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    """Boxes of 16 to 512 px, from 1:2 to 2:1, on the image."""
    scale = 2 ** (4 + 5 * torch.rand(count, 1, generator=generator))
    aspect = 2 ** (torch.rand(count, 1, generator=generator) - 0.5)
    size = torch.cat([scale * aspect, scale / aspect], dim=1)
    limit = torch.tensor([WIDTH, HEIGHT])
    center = torch.rand(count, 2, generator=generator) * limit
    corners = torch.stack([center - size / 2, center + size / 2], dim=1)
    return torch.minimum(corners.clamp(min=0), limit).flatten(1)


def benchmark_mask_proposals(configs: Path, device: str, rounds: int) -> list[dict[str, Any]]:
    """Time Table 6's MLPs on the pyramid against an image pyramid of the same head."""
    opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    inputs = [{"image": image, "height": HEIGHT, "width": WIDTH}]
    models = {}
    for name in ("5x5", "dual", "image_pyramid"):
        cfg = load_config(configs / "Mask-Proposals" / f"mask_R_50_{name}.yaml", opts)
        torch.manual_seed(0)
        models[name] = build_model(cfg.clone()).eval()
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
