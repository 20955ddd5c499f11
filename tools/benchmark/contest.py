"""Calls timed in turn, each in a process with the memory settings that its users have.

Detectron2 and others run with the C library's own settings, and this package with those of its
programs, which keep freed memory (:func:`fpn_d2.utils.devices.keep_freed_memory`). A process cannot
have both, so that a task runs in two. The main process times it: it asks one of them for one call
at a time, while the other waits.
"""

import contextlib
import dataclasses
import functools
import gc
import multiprocessing
import statistics
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any, NamedTuple

import torch

from fpn_d2.utils.devices import keep_freed_memory
from fpn_d2.utils.errors import UserError
from fpn_d2.utils.timing import seconds_of, time_in_turn

__all__ = ["Comparison", "Timing", "keeps_memory", "make_row", "run_task"]

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a call took.

    Args:
        seconds: the median of its rounds.
        fastest, slowest: the shortest and the longest round, in seconds.
        rounds: how many rounds were timed.
        peak_mib: the most memory that it held beyond what its process held before, in MiB and with
            the C library's own settings; None where the system does not tell.
    """

    seconds: float
    fastest: float
    slowest: float
    rounds: int
    peak_mib: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Calls that are timed side by side.

    Args:
        calls: the calls by name.
        kept: the names of those that run with freed memory kept.
        rows: makes the result's rows from the timings by name. It runs in the process that has the
            C library's own settings.
        both: the names of those that run in either way. With memory kept, such a call is named
            ``"<name>, memory kept"``; where memory cannot be kept, it runs once.
    """

    calls: Mapping[str, Callable[[], Any]]
    kept: Collection[str]
    rows: Callable[[dict[str, Timing]], list[Row]]
    both: Collection[str] = ()


Task = Callable[..., Iterator[Comparison]]


def run_task(task: Task, device: str, rounds: int, *args: Any) -> list[Row]:
    """Time all comparisons of a task.

    Args:
        task: a generator function of a module, which both processes call.
        device: "cpu" or "cuda".
        rounds: how often each call is timed, after a round that warms up.
        args: the task's arguments after the device.

    Returns:
        the rows of all comparisons.

    Raises:
        UserError: what the task raises, and where it ends early.
    """
    try:
        with _new_process() as plain, _new_process() as keeping:
            processes = [plain, keeping]
            if not _ask(keeping, _keep_memory):
                processes = [plain]
            _in_all(processes, _start, task, device, args)
            result = []
            while names := _in_all(processes, _advance):
                timings = _time(names, rounds, *processes)
                result += _ask(plain, _rows, timings)
            return result
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exception(error)
        raise UserError(
            f"{task.__name__} ended early; the traceback above says why, and --tasks leaves it out"
        ) from error


def _new_process() -> Executor:
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def _in_all(processes: list[Executor], function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in all processes at once, and return what it returns in the first."""
    futures = [process.submit(function, *args) for process in processes]
    return [future.result() for future in futures][0]


class _Names(NamedTuple):
    all: list[str]
    kept: list[str]
    both: list[str]


def _time(
    names: _Names, rounds: int, plain: Executor, keeping: Executor | None = None
) -> dict[str, Timing]:
    entries = [(name, keeping if name in names.kept else None, name) for name in names.all]
    if keeping:
        entries += [(f"{name}, memory kept", keeping, name) for name in names.both]
    contestants = {
        label: functools.partial(_ask, process or plain, _measure, name)
        for label, process, name in entries
    }
    measured = time_in_turn(contestants, rounds, measure=lambda call: call())
    # All peaks are of the process that keeps no memory: the other one takes little anew.
    peaks = {
        name: _ask(plain, _peak, name) if process else measured[name][-1].peak
        for name, process, _ in entries[: len(names.all)]
    }
    timings = {}
    for label, _, name in entries:
        seconds = [each.seconds for each in measured[label]]
        spread = min(seconds), max(seconds)
        timings[label] = Timing(statistics.median(seconds), *spread, len(seconds), peaks[name])
    return timings


def _ask(process: Executor, function: Callable[..., Any], *args: Any) -> Any:
    return process.submit(function, *args).result()


# --- what runs in a process of a task

_keeps_memory = False
_device = "cpu"
_comparisons: Iterator[Comparison]
_comparison: Comparison | None = None


def keeps_memory() -> bool:
    """Whether this process keeps freed memory; a task need not build in it what it does not time
    there."""
    return _keeps_memory


def _keep_memory() -> bool:
    global _keeps_memory
    _keeps_memory = keep_freed_memory()
    return _keeps_memory


def _start(task: Task, device: str, args: tuple) -> None:
    global _comparisons, _device
    warnings.simplefilter("ignore")  # other packages warn about themselves
    _device, _comparisons = device, task(device, *args)


def _advance() -> _Names | None:
    """Build the next comparison; None after the last one."""
    global _comparison
    _comparison = None  # its models go before the next ones come
    _comparison = next(_comparisons, None)
    if _comparison is None:
        return None
    return _Names(list(_comparison.calls), list(_comparison.kept), list(_comparison.both))


class _Measured(NamedTuple):
    seconds: float
    peak: float | None


def _measure(name: str) -> _Measured:
    """Call once; the seconds that it took, and its peak of memory in MiB."""
    gc.collect()
    with _peak_memory() as peak:
        seconds = seconds_of(_comparison.calls[name])
    return _Measured(seconds, peak.get("mib"))


def _peak(name: str) -> float | None:
    _measure(name)  # takes what stays, such as momentum
    return _measure(name).peak


def _rows(timings: dict[str, Timing]) -> list[Row]:
    return _comparison.rows(timings)


@contextlib.contextmanager
def _peak_memory() -> Iterator[dict[str, float]]:
    """The most memory in MiB that is held within, beyond what was held before, as ``mib``."""
    peak: dict[str, float] = {}
    if _device == "cuda":
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


# --- the result


def make_row(
    task: str,
    variant: str,
    ours: Timing,
    baseline: str,
    theirs: Timing,
    max_error: float | None,
    share_of_matmul: float | None = None,
    **more: Any,
) -> Row:
    """Make a row of the result.

    Args:
        task: what was timed.
        variant: which variant of this package.
        ours: the timing of that variant.
        baseline: what was timed beside it.
        theirs: the timing of the baseline.
        max_error: the largest difference of the outputs, as the task defines it.
        share_of_matmul: the share that ours reached of
            :func:`benchmark.precisions.matmul_rates`.
        more: further keys of the task's own.

    Returns:
        ``ratio`` is how many times as fast as the baseline, ``spread`` the fastest and the slowest
        round in seconds, and each peak is in MiB beyond what the process held.
    """
    peaks = [None if t.peak_mib is None else round(t.peak_mib) for t in (ours, theirs)]
    return {
        "task": task,
        "variant": variant,
        "seconds": round(ours.seconds, 5),
        "baseline": baseline,
        "baseline_seconds": round(theirs.seconds, 5),
        "ratio": round(theirs.seconds / ours.seconds, 2),
        "max_error": None if max_error is None else float(f"{max_error:.2e}"),
        "rounds": ours.rounds,
        "spread": [round(ours.fastest, 5), round(ours.slowest, 5)],
        "baseline_spread": [round(theirs.fastest, 5), round(theirs.slowest, 5)],
        "peak_mib": peaks[0],
        "baseline_peak_mib": peaks[1],
        "share_of_matmul": None if share_of_matmul is None else round(share_of_matmul, 2),
        **more,
    }
