"""Where a detector's time goes, in testing and in training."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..inference import prepare_model
from .detectors import call_without_grad
from .networks import SIZE, build_networks, image_record
from .precisions import PRECISIONS, autocast_dtype, variants_of
from .training import training_step

__all__ = ["profile_detectors"]

_WARM_UP, _CALLS = 4, 2


def profile_detectors(
    configs: Path, device: str, size: tuple[int, int] = SIZE, least: float = 0.01
) -> str:
    """The operators of Faster R-CNN R-50 FPN by their share of the time, in Markdown.

    Call :func:`fpn_d2.utils.devices.keep_freed_memory` before, as this package's programs do;
    else much of the time is of whatever takes memory anew.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        size: of the image.
        least: the share from which on an operator has a row.

    Returns:
        a table of testing, prepared, and one of a training step of an image.
    """
    networks = build_networks(configs, device, size)
    testing, training = {}, {}
    for variant in variants_of(device):
        ready = prepare_model(networks.ours, precision=PRECISIONS[variant])
        testing[variant] = call_without_grad(ready, [image_record(0, size)])
        if variant != "fp16":
            model = copy.deepcopy(networks.ours).train()
            dtype = autocast_dtype(variant)
            inputs = [image_record(1, size, objects=8)]
            training[variant] = training_step(networks.cfg, model, inputs, dtype)
    parts = (("testing", testing), ("training", training))
    return "\n".join(_table(name, calls, device, least) for name, calls in parts)


def _table(title: str, calls: dict[str, Callable[[], Any]], device: str, least: float) -> str:
    shares: dict[str, dict[str, float]] = {}
    for variant, call in calls.items():
        for name, share in _profile(call, device).items():
            shares.setdefault(name, {})[variant] = share
    lines = [f"| operator, {title} | {' | '.join(calls)} |", f"| --- |{' --- |' * len(calls)}"]
    first = next(iter(calls))
    for name, found in sorted(shares.items(), key=lambda item: -item[1].get(first, 0)):
        if max(found.values()) >= least:
            cells = [f"{found[v]:.1%}" if v in found else "" for v in calls]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _profile(call: Callable[[], Any], device: str) -> dict[str, float]:
    """The share of each operator in the time of some calls."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    for _ in range(_WARM_UP):
        call()
    with profile(activities=[activity]) as found:
        for _ in range(_CALLS):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
    times = {event.key: getattr(event, key) for event in found.key_averages()}
    return {name: time / sum(times.values()) for name, time in times.items()}
