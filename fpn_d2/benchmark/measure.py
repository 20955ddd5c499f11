"""Contestants in turn, so that whatever else a machine does meets all alike."""

import contextlib
import dataclasses
import gc
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

from ..utils.devices import keep_freed_memory
from ..utils.errors import UserError

__all__ = ["Timing", "compare", "is_timed_here", "keeps_memory", "row", "take_turns"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a contestant took.

    Args:
        seconds: the median of its rounds.
        fastest, slowest: of them.
        rounds: how many.
        peak_mib: the most memory that it held beyond what was held before, None where unknown;
            of two processes in the one that does not keep freed memory.
    """

    seconds: float
    fastest: float
    slowest: float
    rounds: int
    peak_mib: float | None


@dataclasses.dataclass
class _Side:
    """One of two processes that take turns; see :func:`take_turns`."""

    keeps_memory: bool
    partner: Connection
    taken: bool = True  # whether the C library keeps memory in that one


_side: _Side | None = None  # None: alone


def take_turns(task: Callable[..., list[dict[str, Any]]], *args: Any) -> list[dict[str, Any]]:
    """Run a task of this package in two processes, one of which keeps freed memory.

    Detectron2 and others run as their users have them, with the C library's own way with memory,
    and this package as its programs do (:func:`fpn_d2.utils.devices.keep_freed_memory`); a process
    cannot have both. In :func:`compare` one computes while the other waits.

    Args:
        task: a function of a module, which calls :func:`compare`.
        args: its arguments.

    Returns:
        what the task returns.

    Raises:
        UserError: where one of the processes ends early, or one that the task raises.
    """
    context = multiprocessing.get_context("spawn")
    ends = context.Pipe()
    receiver, sender = context.Pipe(duplex=False)
    processes = [
        context.Process(target=_run_side, args=(_Side(keeps, end), sender, task, args), daemon=True)
        for keeps, end in zip((False, True), ends, strict=True)
    ]
    for process in processes:
        process.start()
    for end in (*ends, sender):
        end.close()  # so that the end of a process is the end of its pipe
    try:
        result = receiver.recv()
        if isinstance(result, UserError):
            raise result
        return result
    except EOFError as error:
        raise UserError(
            f"{task.__name__} ended early; what it printed says why, and --tasks leaves it out"
        ) from error
    finally:
        for process in processes:
            process.join()


def _run_side(
    side: _Side, sender: Connection, task: Callable[..., list[dict[str, Any]]], args: tuple
) -> None:
    global _side
    _side = side
    warnings.simplefilter("ignore")  # of other packages, about themselves
    if side.keeps_memory:
        side.taken = keep_freed_memory()
        side.partner.send(side.taken)
    else:
        side.taken = side.partner.recv()
    try:
        result = task(*args)
    except UserError as error:  # of the user's files; either process would say the same
        result = error
    except (EOFError, BrokenPipeError):  # the other process has ended, and said why
        return
    if not side.keeps_memory:
        sender.send(result)


def compare(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str,
    memory_kept: Container[str] = (),
    peaks: bool = True,
) -> dict[str, Timing]:
    """Time contestants, one after the other in each round, after a round that warms up.

    Args:
        contestants: what is to be timed, by name.
        rounds: how often each is timed.
        device: where they run, "cpu" or "cuda".
        memory_kept: those that run in the process that keeps freed memory, where there are two
            (:func:`take_turns`).
        peaks: whether peaks of memory are wanted of those too, which takes two more calls of each.

    Returns:
        the timing of each, of both processes.
    """
    side = _side
    mine = [n for n in contestants if not side or (n in memory_kept) == side.keeps_memory]
    seconds: dict[str, list[float]] = {name: [] for name in mine}
    held: dict[str, float | None] = {}
    for number in range(rounds + 1):
        if side and side.keeps_memory:
            side.partner.recv()
        for name in mine:
            taken, held[name] = _time_once(contestants[name], device)
            if number:  # the first round warms up
                seconds[name].append(taken)
        if side:
            side.partner.send(number)
            if not side.keeps_memory:
                side.partner.recv()
    timings = {
        name: Timing(statistics.median(s), min(s), max(s), len(s), held[name])
        for name, s in seconds.items()
    }
    if side:
        side.partner.send(timings)
        timings |= side.partner.recv()
        if peaks:
            held = _exchange_peaks(side, contestants, mine, held, device)
            timings = {
                name: dataclasses.replace(timing, peak_mib=held[name])
                for name, timing in timings.items()
            }
    return timings


def _exchange_peaks(
    side: _Side,
    contestants: Mapping[str, Callable[[], Any]],
    mine: Container[str],
    peaks: dict[str, float | None],
    device: str,
) -> dict[str, float | None]:
    """Peaks of memory of one kind: of the process with the C library's own way, where what keeps
    memory is called twice, as nothing is taken anew where it was kept."""
    if side.keeps_memory:
        return side.partner.recv()
    own = {contestants[name]: peaks[name] for name in peaks}
    for name, call in contestants.items():
        if name not in mine:
            if call not in own:  # or the same call under another name has been measured
                _time_once(call, device)  # the first one takes what stays, such as momentum
                own[call] = _time_once(call, device)[1]
            peaks[name] = own[call]
    side.partner.send(peaks)
    return peaks


def is_timed_here(memory_kept: bool) -> bool:
    """Whether contestants of a kind are timed in this process; what is not, need not be built.

    The rows of a task are taken from the process that times those that do not keep memory.

    Args:
        memory_kept: whether of the kind that runs in the process that keeps freed memory.
    """
    return _side is None or _side.keeps_memory == memory_kept


def keeps_memory() -> bool:
    """Whether what is named in ``memory_kept`` does run with freed memory kept."""
    return _side is not None and _side.taken


def _time_once(call: Callable[[], Any], device: str) -> tuple[float, float | None]:
    """The seconds of a call, and its peak of memory in MiB."""
    gc.collect()
    with _peak_memory(device) as peak:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - start
    return taken, peak.get("mib")


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


def row(
    task: str,
    variant: str,
    ours: Timing,
    baseline: str,
    theirs: Timing,
    max_error: float | None,
    share_of_matmul: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A row of the result.

    Args:
        task: what was timed.
        variant: of this package.
        ours: its timing.
        baseline: who was timed beside it.
        theirs: its timing.
        max_error: the largest difference of the outputs, as the task defines it.
        share_of_matmul: of :func:`fpn_d2.benchmark.precisions.matmul_rate`, that ours reached.
        more: what else the task tells.

    Returns:
        ``ratio`` is how many times as fast as the baseline, ``spread`` the fastest and the slowest
        round, and each peak is in MiB beyond what the process held.
    """
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
        "peak_mib": _rounded(ours.peak_mib),
        "baseline_peak_mib": _rounded(theirs.peak_mib),
        "share_of_matmul": None if share_of_matmul is None else round(share_of_matmul, 2),
        **more,
    }


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
