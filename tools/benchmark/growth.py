"""How seconds and memory of inference and of a training step grow, beside stock Detectron2.

One thing grows at a time: the image's side, the objects in it, the classes, the proposals, or the
processes that share a batch. Each point runs in processes of its own (``growth_point``), this
package and Detectron2 in turn. A point that would not fit into the remaining memory or time is left
out, and its row says why.
"""

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fpn_d2.utils.errors import UserError
from fpn_d2.utils.timing import time_in_turn

from .contest import Row
from .free_memory import available_gib
from .growth_point import (
    CONTENDERS,
    Measured,
    OutOfMemory,
    Point,
    build_point,
    keep_and_warm_up,
    measure_point,
)

_FASTER = "Faster-RCNN/faster_rcnn_R_18_FPN"
_RETINANET = "RetinaNet/retinanet_R_18_FPN"
_OBJECTS = (1, 3, 10, 30, 100, 300, 1000, 3000)
_CLASSES = (1, 4, 16, 64, 256, 1200)
_PROPOSALS = (100, 200, 500, 1000, 2000)
_SIDES = (320, 448, 640, 896, 1280, 1792, 2560, 4000)
_MARGIN = 1.25  # of a prediction
_START_SECONDS = 8.0  # to start a point's processes
# Calls before the rounds: one that allocates what stays, one that measures memory, and for ours one
# that gets the memory it keeps.
_CALLS_BEFORE = {"ours": 3, "detectron2": 2}


# From the kernel for taking too much, from C++ for an unhandled refusal. Windows has no SIGKILL.
_SIGNALS_OF_MEMORY = {getattr(signal, name, None) for name in ("SIGKILL", "SIGABRT")}

# Modules that take long to import. The fork server finds none of those beside the script.
_PRELOADED = ("torchvision.models.detection", "detectron2.modeling", "fpn_d2.engine")


class Series(NamedTuple):
    """One thing that grows, in inference or in training of one detector.

    Args:
        axis: "objects", "classes", "proposals", "processes" or "side".
        row: a config below ``configs/quick``, without ``.yaml``.
        way: "inference" or "training".
        values: how large it is at each point, from small to large.
    """

    axis: str
    row: str
    way: str
    values: tuple[int, ...]

    @property
    def first_power(self) -> float:
        """The power of the value by which the first point's cost is assumed to grow: pixels grow
        with the square of the side; all else begins with next to nothing beside the pixels."""
        return 2.0 if self.axis == "side" else 0.0

    def point(self, value: int) -> Point:
        """Return what is measured at a value.

        In inference the objects are those that a detector may return, out of a thousand proposals
        for each class. The heads train on all proposals. The processes share two images.
        """
        point = Point(self.row, self.way)
        if self.axis == "side":
            return point._replace(side=value)
        if self.axis == "processes":
            return point._replace(processes=value, images=2)
        if self.axis == "objects" and self.way == "training":
            return point._replace(objects=value)
        if self.axis == "classes":
            section = "RETINANET" if self.row == _RETINANET else "ROI_HEADS"
            opts = (f"MODEL.{section}.NUM_CLASSES", str(value))
        elif self.axis == "proposals":
            opts = (
                *("MODEL.RPN.PRE_NMS_TOPK_TEST", "2000", "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "2000"),
                *("MODEL.RPN.POST_NMS_TOPK_TEST", str(value)),
                *("MODEL.RPN.POST_NMS_TOPK_TRAIN", str(value)),
                *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", str(value)),
            )
        else:
            threshold = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
            opts = ("TEST.DETECTIONS_PER_IMAGE", str(value), *threshold)
        return point._replace(opts=opts)


def all_series(quick: bool = False, axes: Sequence[str] = ()) -> list[Series]:
    """List what the task measures, the largest images last.

    Args:
        quick: whether to measure only three values of each, from the lower end.
        axes: what grows, see :class:`Series`; empty for all.
    """
    both = ("inference", "training")
    series = [
        *(Series("objects", _FASTER, way, _OBJECTS) for way in both),
        Series("objects", _RETINANET, "training", _OBJECTS),
        *(Series("classes", row, way, _CLASSES) for row in (_FASTER, _RETINANET) for way in both),
        *(Series("proposals", _FASTER, way, _PROPOSALS) for way in both),
        *(Series("processes", _FASTER, way, (1, 2)) for way in both),
        *(Series("side", _FASTER, way, _SIDES) for way in both),
    ]
    series = [one for one in series if not axes or one.axis in axes]
    if not quick:
        return series
    return [s._replace(values=s.values[:5:2]) if len(s.values) > 3 else s for s in series]


def measure_growth(
    device: str, rounds: int, minutes: float, series: Sequence[Series]
) -> Iterator[Row]:
    """Measure each point of the series.

    Args:
        device: "cpu" or "cuda".
        rounds: how often each call is timed, after others that warm up and measure memory; once if
            time is short.
        minutes: a point that would end later is left out.
        series: see :func:`all_series`.

    Yields:
        a row for each point: ``row``, ``way``, ``axis`` and ``value``; ``seconds`` and
        ``baseline_seconds``, of each round; ``peak_mib`` and ``baseline_peak_mib``, beyond what the
        process used before and with the C library's own settings, None where the system does not
        tell; ``found``, the objects in the first image, None in training; ``alternated``, whether
        the two took turns or, for the sake of memory, ran one after the other; ``left_out``, for
        "ours" and "detectron2" the reason why it is not measured, "" where it is.
    """
    deadline = time.monotonic() + 60 * minutes
    for one in series:
        history: dict[str, list[tuple[int, Measured]]] = {name: [] for name in CONTENDERS}
        left_out = dict.fromkeys(CONTENDERS, "")
        for value in one.values:
            point = one.point(value)
            room = available_gib(device)
            predict = functools.partial(_predict, value=value, power=one.first_power)
            peaks = {
                name: predict([(x, (m.peak_mib or 0.0) / 1024) for x, m in history[name]])
                for name in CONTENDERS
            }
            for name, peak in peaks.items():
                if not left_out[name] and peak > room:
                    left_out[name] = f"needs about {peak:.0f} GiB of {room:.0f}"
            going = [name for name in CONTENDERS if not left_out[name]]
            each = {name: predict([(x, m.seconds) for x, m in history[name]]) for name in going}
            least, wanted = (
                sum((times + _CALLS_BEFORE[name]) * seconds for name, seconds in each.items())
                for times in (1, rounds)
            )
            left = deadline - time.monotonic() - _START_SECONDS
            if device == "cuda" and point.processes > torch.cuda.device_count():
                left_out, going = dict.fromkeys(CONTENDERS, "needs a GPU for each process"), []
            elif going and left < least:
                why = f"would take {least:.0f} s more" if least else "there was no time left"
                left_out, going = {**left_out, **dict.fromkeys(going, why)}, []
            times = rounds if left >= wanted else 1
            together = len(going) * max((peaks[name] for name in going), default=0.0) < room
            found = _measure(point, going, device, times, room, together)
            for name in going:
                if name in found.results:
                    history[name].append((value, _summary(found.results[name])))
                else:
                    left_out[name] = found.reasons[name]
            yield _row(one, value, found, left_out)


class _Found(NamedTuple):
    results: dict[str, list[Measured]]
    alternated: bool
    reasons: dict[str, str]  # of those without results


def _measure(
    point: Point, names: Sequence[str], device: str, rounds: int, gib: float, together: bool
) -> _Found:
    """Measure contenders in turn, or one after the other; one that runs out of memory or is ended
    has no results.

    Raises:
        UserError: if one ends early for another reason.
    """
    results, reasons = {}, {}
    try:
        if together and len(names) > 1:
            with contextlib.suppress(OutOfMemory, ProcessEnded):
                return _Found(_time(point, names, device, rounds, gib / len(names)), True, {})
        for name in names:
            try:
                results |= _time(point, [name], device, rounds, gib)
            except OutOfMemory:
                reasons[name] = f"ran out of {gib:.0f} GiB"
            except ProcessEnded as ended:
                reasons[name] = str(ended)
    except Exception as error:
        traceback.print_exception(error)
        raise UserError(
            f"growth ended early at {point}; the traceback above says why, and --json has what was "
            "measured before"
        ) from error
    return _Found(results, False, reasons)


def _time(
    point: Point, names: Sequence[str], device: str, rounds: int, gib: float
) -> dict[str, list[Measured]]:
    """Measure contenders in turn, each in processes of its own: first the memory of a call, then
    the time of each round.

    Raises:
        OutOfMemory, ProcessEnded: if one gets no more memory, or is ended.
    """
    context = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
    if device == "cpu":  # a process then starts in no time
        context.set_forkserver_preload(list(_PRELOADED))
    threads = max(1, torch.get_num_threads() // point.processes)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pools: dict[str, list[_Pool]] = {}
        for name in names:
            pools[name] = [_Pool(stack, context) for _ in range(point.processes)]
            meeting, share = str(Path(folder, name)), gib / point.processes
            build = functools.partial(build_point, point, name, device, threads)
            starts = [functools.partial(build, r, meeting, share) for r in range(point.processes)]
            _ask_all(pools[name], starts)
        of_memory, of_time = (
            {name: functools.partial(_measure_all, pools[name], kind) for name in names}
            for kind in (True, False)
        )
        # A process that keeps memory allocates little anew, so memory is measured first.
        memory = time_in_turn(of_memory, 1, warm_up=1, measure=lambda call: call())
        if "ours" in names:
            _ask_all(pools["ours"], [keep_and_warm_up] * point.processes)
        seconds = time_in_turn(of_time, rounds, warm_up=0, measure=lambda call: call())
        return {name: [*memory[name], *seconds[name]] for name in names}


class ProcessEnded(Exception):
    """A process of a point was ended, but not for want of memory; the message says by what."""


class _Pool:
    """A process that is asked for one call at a time.

    Args:
        stack: ends the process when it closes.
        context: the multiprocessing context that starts the process.
    """

    def __init__(self, stack: contextlib.ExitStack, context: BaseContext):
        self._executor = stack.enter_context(ProcessPoolExecutor(1, context))
        others = set(multiprocessing.active_children())
        self._executor.submit(os.getpid)  # starts it
        (self._process,) = set(multiprocessing.active_children()) - others

    def ask(self, call: Callable[[], Any]) -> Future:
        """Begin a call; the process may have been ended since the last one."""
        try:
            return self._executor.submit(call)
        except BrokenProcessPool as error:
            future: Future = Future()
            future.set_exception(error)
            return future

    def end(self, error: BaseException) -> BaseException:
        """End the process; as long as it runs, the others of its point wait for it.

        Returns:
            the error of its call, or what ended the process: the system or the C library ends one
            that gets no memory.
        """
        if not isinstance(error, BrokenProcessPool):
            self._executor.shutdown(wait=False)
            return error
        self._executor.shutdown()
        code = self._process.exitcode
        if -code in _SIGNALS_OF_MEMORY:
            return OutOfMemory()
        return ProcessEnded(f"ended {f'by signal {-code}' if code < 0 else f'with code {code}'}")


def _ask_all(pools: Sequence[_Pool], calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make a call in each process of a point, all at once.

    Raises:
        OutOfMemory, ProcessEnded, Exception: the first in this order, from whichever process.
    """
    futures = {pool.ask(call): pool for pool, call in zip(pools, calls, strict=True)}
    errors = [
        futures[future].end(future.exception())
        for future in as_completed(futures)
        if future.exception()
    ]
    for kind in (OutOfMemory, ProcessEnded, BaseException):
        for error in errors:
            if isinstance(error, kind):
                raise error
    return [future.result() for future in futures]


def _measure_all(pools: Sequence[_Pool], of_memory: bool) -> Measured:
    """Make a call in all processes of a point; return the longest time, or the sum of memory."""
    found = _ask_all(pools, [functools.partial(measure_point, of_memory)] * len(pools))
    seconds, peaks = ([one[i] for one in found] for i in range(2))
    return Measured(
        None if None in seconds else max(seconds),
        None if None in peaks else sum(peaks),
        found[0].found,
    )


def _summary(rounds: Sequence[Measured]) -> Measured:
    """Return the memory, which was measured first, and the median of the seconds."""
    seconds = statistics.median(one.seconds for one in rounds[1:])
    return Measured(seconds, rounds[0].peak_mib, rounds[0].found)


def _row(series: Series, value: int, found: _Found, left_out: dict[str, str]) -> Row:
    row: Row = {"task": "growth", "row": Path(series.row).name, "way": series.way}
    row |= {"axis": series.axis, "value": value}
    for name, prefix in zip(CONTENDERS, ("", "baseline_"), strict=True):
        rounds = found.results.get(name)
        one = _summary(rounds) if rounds else None
        row[f"{prefix}seconds"] = [round(each.seconds, 5) for each in rounds[1:]] if rounds else []
        row[f"{prefix}peak_mib"] = None if not one or one.peak_mib is None else round(one.peak_mib)
        row[f"{prefix}found"] = one and one.found
    return {**row, "alternated": found.alternated, "left_out": dict(left_out)}


def growth_line(row: Row) -> str:
    """Describe a point in a line, for whoever waits."""
    words = []
    for name, prefix in zip(CONTENDERS, ("", "baseline_"), strict=True):
        seconds, peak = row[f"{prefix}seconds"], row[f"{prefix}peak_mib"]
        memory = "" if peak is None else f", {peak} MiB"
        told = f"{statistics.median(seconds):.3g} s{memory}" if seconds else row["left_out"][name]
        words.append(f"{name} {told}")
    return f"{row['axis']} {row['value']}, {row['row']}, {row['way']}: {'; '.join(words)}"


def _predict(history: Sequence[tuple[int, float]], value: int, power: float) -> float:
    """Predict a point's cost, with a margin, by the power of the value in the last two points.

    The history has the values and costs so far. With one point the power is ``power``. Without a
    history the cost is 0.
    """
    if not history:
        return 0.0
    x, cost = history[-1]
    if len(history) > 1 and min(cost, history[-2][1]) > 0:
        before, cost_before = history[-2]
        power = math.log(cost / cost_before) / math.log(x / before)
    return _MARGIN * cost * (value / x) ** min(max(power, 0.0), 3.0)
