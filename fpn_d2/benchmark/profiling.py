"""Where the time of a prepared detector goes."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from ..export import prepare_model
from .detectors import call_without_grad
from .networks import SIZE, build_networks, image_record
from .precisions import PRECISIONS, variants_of

__all__ = ["profile_inference"]

_WARM_UP, _CALLS = 5, 3


def profile_inference(
    configs: Path, device: str, size: tuple[int, int] = SIZE, least: float = 0.01
) -> str:
    """The operators of Faster R-CNN R-50 FPN, prepared, by their share of the time, in Markdown.

    Call :func:`fpn_d2.devices.keep_freed_memory` before, as this package's programs do; else much
    of the time is of whatever takes memory anew.

    Args:
        configs: the folder of configs.
        device: "cpu" or "cuda".
        size: of the image.
        least: the share from which on an operator has a row.
    """
    networks = build_networks(configs, device, size)
    inputs = [image_record(0, size)]
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    shares: dict[str, dict[str, float]] = {}
    variants = variants_of(device)
    for variant in variants:
        call = call_without_grad(
            prepare_model(networks.ours, precision=PRECISIONS[variant]), inputs
        )
        for _ in range(_WARM_UP):
            call()
        with profile(activities=[activity]) as found:
            for _ in range(_CALLS):
                call()
            if device == "cuda":
                torch.cuda.synchronize()
        times = {event.key: getattr(event, key) for event in found.key_averages()}
        for name, time in times.items():
            shares.setdefault(name, {})[variant] = time / sum(times.values())
    lines = [f"| operator | {' | '.join(variants)} |", f"| --- |{' --- |' * len(variants)}"]
    for name, found in sorted(shares.items(), key=lambda item: -item[1].get(variants[0], 0)):
        if max(found.values()) >= least:
            cells = [f"{found[v]:.1%}" if v in found else "" for v in variants]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
