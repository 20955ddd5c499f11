"""A training step of Faster R-CNN R-50 FPN, ours beside stock Detectron2's on the same weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn

from ..inference import compile_backbone
from .detectors import STOCK_KEPT, count_flops
from .measure import compare, is_timed_here, keeps_memory, row
from .networks import SIZE, build_networks, image_record
from .precisions import autocast_dtype, matmul_rates, variants_of

__all__ = ["benchmark_training", "loss_errors", "training_step"]


def benchmark_training(
    configs: Path,
    device: str,
    rounds: int,
    compiled: bool = False,
    size: tuple[int, int] = SIZE,
) -> list[dict[str, Any]]:
    """Time a training step of two images with 8 objects each.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        rounds: how often.
        compiled: add the variants with torch.compile.
        size: of the images.

    Returns:
        rows, see :func:`fpn_d2.benchmark.measure.row`; for ``max_error`` see :func:`loss_errors`.
    """
    networks = build_networks(configs, device, size)
    inputs = [image_record(seed, size, objects=8) for seed in (1, 2)]
    variants = [v for v in variants_of(device) if v != "fp16"]
    variants += [f"{v} compiled" for v in variants] if compiled else []
    models, contestants = {}, {}
    for name in ("detectron2", *variants):
        model = copy.deepcopy(networks.stock if name == "detectron2" else networks.ours).train()
        if name.endswith("compiled"):
            compile_backbone(model)
        dtype = None if name == "detectron2" else autocast_dtype(name)
        contestants[name] = training_step(networks.cfg, model, inputs, dtype)
        models[name] = model
    if device == "cuda":
        amp = copy.deepcopy(networks.stock).train()
        contestants["detectron2 AMP"] = training_step(networks.cfg, amp, inputs, torch.float16)
    kept = {*variants}
    if keeps_memory():
        contestants[STOCK_KEPT] = contestants["detectron2"]
        kept.add(STOCK_KEPT)
    reports = is_timed_here(memory_kept=False)
    errors = {}
    if reports:  # before weights differ
        mine = {name: (models[name], autocast_dtype(name)) for name in variants}
        errors = loss_errors(mine, models["detectron2"], inputs)
    timings = compare(contestants, rounds, device, kept)
    rates = matmul_rates(device)
    if not reports:
        return []
    one = training_step(networks.cfg, models["detectron2"], inputs[:1], None)
    flops, rows = len(inputs) * count_flops(one), []
    for name in variants:
        share = flops / timings[name].seconds / rates[name.split()[0]]
        for baseline, timing in timings.items():
            if baseline.startswith("detectron2"):
                rows.append(
                    row("training", name, timings[name], baseline, timing, errors[name], share)
                )
    return rows


def training_step(
    cfg: CfgNode,
    model: nn.Module,
    inputs: list[dict[str, Any]],
    dtype: torch.dtype | None,
) -> Callable[[], float]:
    """A training step as a call that returns its loss, at a learning rate that changes nothing.

    Args:
        cfg: its solver's.
        model: in training mode.
        inputs: a batch, as models of Detectron2 take it.
        dtype: of autocast; None for float32.
    """
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 1e-9  # random weights would diverge at the recipe's rate
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def step() -> float:
        torch.manual_seed(7)  # of the samples
        with EventStorage(), torch.autocast(device, dtype, enabled=dtype is not None):
            loss = sum(model(inputs).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return float(loss.detach())

    return step


@torch.no_grad()
def loss_errors(
    ours: dict[str, tuple[nn.Module, torch.dtype | None]],
    stock: nn.Module,
    inputs: list[dict[str, Any]],
) -> dict[str, float]:
    """The difference of the sum of all training losses as a share of it, on the same proposals.

    Of random weights many proposals score alike, so that rounding decides which of them are kept
    and sampled.

    Args:
        ours: by name, a model in training mode and the dtype of its autocast, None for float32.
        stock: of the same weights, in training mode.
        inputs: a batch, as models of Detectron2 take it.
    """
    expected, proposals = _losses(stock, inputs, None, None)
    return {
        name: abs(_losses(model, inputs, dtype, proposals)[0] / expected - 1)
        for name, (model, dtype) in ours.items()
    }


def _losses(
    model: nn.Module,
    inputs: list[dict[str, Any]],
    dtype: torch.dtype | None,
    proposals: list[Instances] | None,
) -> tuple[float, list[Instances] | None]:
    """A model's losses, and the proposals that it made or was given."""
    device = next(model.parameters()).device
    with EventStorage(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        torch.manual_seed(7)  # of the samples
        if getattr(model, "proposal_generator", None) is None or not hasattr(model, "roi_heads"):
            return float(sum(model(inputs).values())), None
        images = model.preprocess_image(inputs)
        objects = [record["instances"].to(device) for record in inputs]
        features = model.backbone(images.tensor)
        own, losses = model.proposal_generator(images, features, objects)
        proposals = own if proposals is None else proposals
        torch.manual_seed(7)
        losses |= model.roi_heads(images, features, proposals, objects)[1]
    return float(sum(losses.values())), proposals
