"""The operators that take a detector's time, in testing and in training."""

from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from fpn_d2.inference import prepare_model

from .detectors import call_without_grad, training_step
from .networks import SIZE, build_networks, image_record
from .precisions import PRECISIONS, autocast_dtype, variants_of

_WARM_UP, _CALLS = 4, 2


def profile_detectors(device: str, size: tuple[int, int] = SIZE, least: float = 0.01) -> str:
    """Return each operator's share of the time of Faster R-CNN R-50 FPN, as Markdown tables.

    One table is for testing the prepared model, one for a training step on one image. Operators
    whose share is below ``least`` are left out. Call
    :func:`fpn_d2.utils.devices.keep_freed_memory` first, as this package's programs do; otherwise
    much of the time belongs to whichever operators allocate memory anew.
    """
    networks = build_networks(device, size)
    inputs = [image_record(1, size, objects=8)]
    testing, training = {}, {}
    for variant in variants_of(device):
        ready = prepare_model(networks.ours, precision=PRECISIONS[variant])
        testing[variant] = call_without_grad(ready, [image_record(0, size)])
    networks.ours.train()  # the prepared ones are copies
    for variant in variants_of(device):
        if variant != "fp16":
            arguments = networks.cfg, networks.ours, inputs, autocast_dtype(variant)
            training[variant] = training_step(*arguments)
    parts = (("testing", testing), ("training", training))
    return "\n".join(_table(name, calls, device, least) for name, calls in parts)


def _table(title: str, calls: dict[str, Callable[[], Any]], device: str, least: float) -> str:
    shares: dict[str, dict[str, float]] = {}
    for variant, call in calls.items():
        for name, share in _profile(call, device).items():
            shares.setdefault(name, {})[variant] = share
    first = next(iter(calls))
    rows = [
        [f"`{name}`", *(f"{found[v]:.1%}" if v in found else "" for v in calls)]
        for name, found in sorted(shares.items(), key=lambda item: -item[1].get(first, 0))
        if max(found.values()) >= least
    ]
    headers = [f"operator, {title}", *calls]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True) + "\n"


def _profile(call: Callable[[], Any], device: str) -> dict[str, float]:
    """Return each operator's share of the time of some calls."""
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
