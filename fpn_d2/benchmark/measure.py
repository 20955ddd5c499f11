"""Contestants in turn in one process, so that whatever else a machine does meets all alike."""

import contextlib
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch

from ..devices import keep_freed_memory, return_freed_memory

__all__ = ["Timing", "compare", "matmul_rate", "row"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a contestant took.

    Args:
        seconds: the median of its rounds.
        fastest, slowest: of them.
        peak_mib: the most memory that it held beyond what was held before, None where unknown.
    """

    seconds: float
    fastest: float
    slowest: float
    peak_mib: float | None


def compare(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str,
    memory_kept: Container[str] = (),
) -> dict[str, Timing]:
    """Time contestants, one after the other in each round, after a round that warms up.

    Args:
        contestants: what is to be timed, by name.
        rounds: how often each is timed.
        device: where they run, "cpu" or "cuda".
        memory_kept: those that run as this package's programs do, which keep freed memory (see
            :func:`fpn_d2.devices.keep_freed_memory`); the others run as the C library has it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    peaks, keeps = {}, None
    # Those of one kind in a row, since the first after a change warms up once more.
    order = sorted(contestants, key=lambda name: name in memory_kept)
    for number in range(rounds + 1):
        for name in order:
            call = contestants[name]
            gc.collect()
            if keeps != (name in memory_kept):
                keeps = name in memory_kept
                return_freed_memory()
                if keeps:
                    keep_freed_memory()
                if number:
                    call()
            with _peak_memory(device) as peak:
                start = time.perf_counter()
                call()
                if device == "cuda":
                    torch.cuda.synchronize()
                taken = time.perf_counter() - start
            if number:  # the first round warms up
                seconds[name].append(taken)
                peaks[name] = peak
    return_freed_memory()
    return {
        name: Timing(statistics.median(s), min(s), max(s), peaks[name].get("mib"))
        for name, s in seconds.items()
    }


@contextlib.contextmanager
def _peak_memory(device: str) -> Iterator[dict[str, float]]:
    """The most memory in MiB that was held within, beyond what was held before, as ``mib``."""
    peak: dict[str, float] = {}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak["mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        return
    try:
        with open("/proc/self/clear_refs", "w") as file:  # Linux: sets VmHWM to VmRSS
            file.write("5")
        before = _status()["VmRSS"]
    except (OSError, KeyError):
        yield peak
        return
    yield peak
    peak["mib"] = (_status()["VmHWM"] - before) / 1024


def _status() -> dict[str, int]:
    """The lines of /proc/self/status that end in kB."""
    with open("/proc/self/status") as file:
        words = [line.split() for line in file if line.endswith(" kB\n")]
    return {name.rstrip(":"): int(value) for name, value, _ in words}


def matmul_rate(dtype: torch.dtype, device: str, size: int = 2048) -> float:
    """The machine's own rate of matrix products, in floating-point operations a second.

    Args:
        dtype: of the matrices.
        device: where.
        size: of the square matrices.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timing = compare({"product": lambda: a @ b}, rounds=10, device=device)["product"]
    return 2 * size**3 / timing.seconds


def row(
    task: str,
    variant: str,
    ours: Timing,
    baseline: str,
    theirs: Timing,
    max_error: float | None,
    **more: Any,
) -> dict[str, Any]:
    """A row of the result; ``ratio`` is how many times as fast as the baseline."""
    return {
        "task": task,
        "variant": variant,
        "seconds": round(ours.seconds, 5),
        "baseline": baseline,
        "baseline_seconds": round(theirs.seconds, 5),
        "ratio": round(theirs.seconds / ours.seconds, 2),
        "max_error": None if max_error is None else float(f"{max_error:.2e}"),
        "spread": [round(ours.fastest, 5), round(ours.slowest, 5)],
        "baseline_spread": [round(theirs.fastest, 5), round(theirs.slowest, 5)],
        "peak_mib": _rounded(ours.peak_mib),
        "baseline_peak_mib": _rounded(theirs.peak_mib),
        **more,
    }


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
