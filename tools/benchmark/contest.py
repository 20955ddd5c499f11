"""Calls timed in turn, each in a process with the memory settings that its users have.

Detectron2 and others run with the C library's own settings, and this package with those of its
programs, which keep freed memory (:func:`fpn_d2.utils.devices.keep_freed_memory`). A process cannot
have both, so a task runs in two. The main process times it: it asks one of them for one call at a
time, while the other waits.
"""

import functools
import gc
import multiprocessing
import statistics
import traceback
import warnings
from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any, NamedTuple

import torch

from fpn_d2.utils.devices import keep_freed_memory, return_freed_memory
from fpn_d2.utils.errors import UserError
from fpn_d2.utils.timing import seconds_of, time_in_turn

Row = dict[str, Any]


class Timing(NamedTuple):
    """What a call took.

    Args:
        seconds, fastest, slowest: the median, the shortest and the longest round.
        rounds: how many rounds were timed.
        peak_mib: the most memory that it held beyond what its process held before, in MiB and with
            the C library's own settings; None where the system does not tell.
    """

    seconds: float
    fastest: float
    slowest: float
    rounds: int
    peak_mib: float | None


class Comparison(NamedTuple):
    """Calls that are timed side by side.

    Args:
        calls: the calls by name.
        kept: the names of those that run with freed memory kept.
        both: the names of those that run in both ways. With memory kept, such a call is named
            ``"<name>, memory kept"``; where memory cannot be kept, it runs once.
    """

    calls: Mapping[str, Callable[[], Any]]
    kept: Collection[str]
    both: Collection[str] = ()


# A task does ``timings = yield Comparison(...)`` as often as it likes, and returns its rows. In the
# process that keeps memory, whose rows are not wanted, ``timings`` is None.
Comparisons = Generator[Comparison, dict[str, Timing] | None, list[Row]]


def run_task(task: Callable[..., Comparisons], device: str, rounds: int, *args: Any) -> list[Row]:
    """Time what a task compares.

    Args:
        task: a module-level function, since both processes call it.
        device: "cpu" or "cuda".
        rounds: how often each call is timed, after a round that warms up.
        args: the task's arguments after the device.

    Returns:
        the task's rows.

    Raises:
        UserError: as the task raises it, or if the task ends early.
    """
    options = {"max_workers": 1, "mp_context": multiprocessing.get_context("spawn")}
    try:
        with ProcessPoolExecutor(**options) as plain, ProcessPoolExecutor(**options) as keeping:
            plain.submit(keeps_memory)  # starts it while the other one starts
            if not _ask(keeping, _keep_memory):
                keeping = plain
            step = _ask_both(plain, keeping, _start, task, device, args)
            while isinstance(step, Comparison):
                timings = _time(step, rounds, plain, keeping)
                step = _ask_both(plain, keeping, _advance, timings)
            return step
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exception(error)
        raise UserError(
            f"{task.__name__} ended early; the traceback above says why, and --tasks leaves it out"
        ) from error


def _ask(process: Executor, function: Callable[..., Any], *args: Any) -> Any:
    return process.submit(function, *args).result()


def _ask_both(plain: Executor, keeping: Executor, function: Callable, *args: Any) -> Any:
    """Call a function in both processes at once, and return what it returns in the plain one."""
    futures = [process.submit(function, *args) for process in dict.fromkeys((plain, keeping))]
    first, *_ = [future.result() for future in futures]
    return first


def _time(names: Comparison, rounds: int, plain: Executor, keeping: Executor) -> dict[str, Timing]:
    places = {name: (keeping if name in names.kept else plain, name) for name in names.calls}
    if keeping is not plain:
        places |= {f"{name}, memory kept": (keeping, name) for name in names.both}
    contestants = {
        label: functools.partial(_ask, process, _measure, name)
        for label, (process, name) in places.items()
    }
    measured = time_in_turn(contestants, rounds, measure=lambda call: call())
    # All peaks are measured in the plain process, as the other one allocates little anew. A first
    # call there allocates what stays, such as momentum.
    peaks = {}
    for name in names.calls:
        if places[name][0] is not plain:
            _ask(plain, _measure, name)
        peaks[name] = _ask(plain, _measure_peak, name)
    timings = {}
    for label, (_, name) in places.items():
        seconds = measured[label]
        spread = statistics.median(seconds), min(seconds), max(seconds)
        timings[label] = Timing(*spread, len(seconds), peaks[name])
    return timings


# What runs in a process of a task

_keeps_memory = False
_device = "cpu"
_running: Comparisons
_comparison: Comparison


def keeps_memory() -> bool:
    """Return whether this process keeps freed memory; a task need not build here what it times only
    in the other one."""
    return _keeps_memory


def _keep_memory() -> bool:
    global _keeps_memory
    _keeps_memory = keep_freed_memory()
    return _keeps_memory


def _start(task: Callable[..., Comparisons], device: str, args: tuple) -> Comparison | list[Row]:
    global _device, _running
    warnings.simplefilter("ignore")  # other packages warn about themselves
    _device, _running = device, task(device, *args)
    return _advance(None)


def _advance(timings: dict[str, Timing] | None) -> Comparison | list[Row]:
    """Go on to the next comparison and return its names, or at the end the rows."""
    global _comparison
    try:
        _comparison = _running.send(None if _keeps_memory else timings)
    except StopIteration as end:
        return end.value
    calls = dict.fromkeys(_comparison.calls)  # the functions stay in their process
    return Comparison(calls, list(_comparison.kept), list(_comparison.both))


def _measure(name: str) -> float:
    gc.collect()
    return seconds_of(_comparison.calls[name])


def _measure_peak(name: str) -> float | None:
    return peak_of(_comparison.calls[name], _device)


def peak_of(call: Callable[[], Any], device: str) -> float | None:
    """Make a call and return its peak memory in MiB, None where the system does not tell.

    The peak is what the process, or the GPU, held beyond what it used before the call. It says
    little in a process that keeps freed memory. Do not time a call here: the process has handed
    back memory that the call would have reused.
    """
    return_freed_memory()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds_of(call)  # it waits for the GPU
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        with open("/proc/self/clear_refs", "w") as file:  # Linux: sets VmHWM to VmRSS
            file.write("5")
        before = memory_of_process("VmRSS")
    except OSError:
        before = None
    call()
    return None if before is None else memory_of_process("VmHWM") - before


def memory_of_process(name: str) -> float:
    """Read a line of /proc/self/status (Linux), such as "VmRSS", in MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:")) / 1024


def make_row(
    task: str,
    variant: str,
    timings: Mapping[str, Timing],
    max_error: float | None,
    share_of_matmul: float | None = None,
    *,
    ours: str = "ours",
    baseline: str = "detectron2",
    **more: Any,
) -> Row:
    """Make a row of the result.

    Its ``ratio`` is how many times as fast as the baseline ours is, ``spread`` the fastest and the
    slowest round in seconds, and each peak is in MiB beyond what the process held before.

    Args:
        task, variant: what was timed, and which variant of this package.
        timings: the timings of a comparison.
        max_error: the largest difference of the outputs, as the task defines it.
        share_of_matmul: the share of :func:`benchmark.precisions.matmul_rates` that ours reached.
        ours, baseline: the names in ``timings`` of the variant and of what was timed beside it.
        more: the task's own further keys.
    """
    mine, theirs = timings[ours], timings[baseline]

    def rounded(value: float | None, digits: int | None = None) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "task": task,
        "variant": variant,
        "seconds": round(mine.seconds, 5),
        "baseline": baseline,
        "baseline_seconds": round(theirs.seconds, 5),
        "ratio": round(theirs.seconds / mine.seconds, 2),
        "max_error": None if max_error is None else float(f"{max_error:.2e}"),
        "rounds": mine.rounds,
        "spread": [round(mine.fastest, 5), round(mine.slowest, 5)],
        "baseline_spread": [round(theirs.fastest, 5), round(theirs.slowest, 5)],
        "peak_mib": rounded(mine.peak_mib),
        "baseline_peak_mib": rounded(theirs.peak_mib),
        "share_of_matmul": rounded(share_of_matmul, 2),
        **more,
    }
