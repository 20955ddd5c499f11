"""How seconds and memory of inference and of a training step grow, beside stock Detectron2.

One thing grows at a time: the image's side, the objects in it, the classes, the proposals, or the
processes that share a batch. Each point runs in processes of its own (``growth_point``), this
package and Detectron2 in turn. A point that would not fit into the memory or the time that is left
is left out, and its row says why.
"""

import contextlib
import functools
import math
import multiprocessing
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import torch

from fpn_d2.utils.errors import UserError
from fpn_d2.utils.timing import time_in_turn

from .contest import Row
from .growth_point import CONTENDERS, Measured, OutOfMemory, Point, build_point, measure_point

_FASTER = "Faster-RCNN/faster_rcnn_R_18_FPN"
_RETINANET = "RetinaNet/retinanet_R_18_FPN"
# Stock RoI heads know no other size. Float32 in both.
_SAME = ("MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", "224")
_OBJECTS = (1, 3, 10, 30, 100, 300, 1000, 3000)
_CLASSES = (1, 4, 16, 64, 256, 1200)
_PROPOSALS = (100, 200, 500, 1000, 2000)
_SIDES = (320, 448, 640, 896, 1280, 1792, 2560, 4000)
_SPARE_GIB = 1.0  # for the rest of the system
_MARGIN = 1.25  # of a prediction
_START_SECONDS = 8.0  # of a point's processes


# What takes long to import. The server finds no module beside the script.
_PRELOADED = ("torchvision.models.detection", "detectron2.modeling", "fpn_d2.engine")


class Series(NamedTuple):
    """What grows in one way of one detector.

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
        """As which power of the value the cost of its first point is taken to grow: pixels go with
        the square of the side, and all else begins with next to nothing beside the pixels."""
        return 2.0 if self.axis == "side" else 0.0

    def point(self, value: int) -> Point:
        """What is measured at a value.

        In inference the objects are those that a detector may return, of a thousand proposals for
        each class. The heads train on all proposals. Two images are shared by the processes.
        """
        point = Point(self.row, self.way, _SAME)
        opts: tuple[str, ...] = ()
        if self.axis == "side":
            point = point._replace(side=value)
        elif self.axis == "processes":
            point = point._replace(processes=value, images=2)
        elif self.axis == "classes":
            section = "RETINANET" if self.row == _RETINANET else "ROI_HEADS"
            opts = (f"MODEL.{section}.NUM_CLASSES", str(value))
        elif self.axis == "proposals":
            opts = (
                *("MODEL.RPN.PRE_NMS_TOPK_TEST", "2000", "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "2000"),
                *("MODEL.RPN.POST_NMS_TOPK_TEST", str(value)),
                *("MODEL.RPN.POST_NMS_TOPK_TRAIN", str(value)),
                *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", str(value)),
            )
        elif self.way == "training":
            point = point._replace(objects=value)
        else:
            threshold = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
            opts = ("TEST.DETECTIONS_PER_IMAGE", str(value), *threshold)
        return point._replace(opts=(*point.opts, *opts))


def all_series(quick: bool = False) -> list[Series]:
    """List what the task measures, the largest images last.

    Args:
        quick: whether only three values of each, from the lower end, are measured.
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
    if not quick:
        return series
    return [s._replace(values=s.values[:5:2]) if len(s.values) > 3 else s for s in series]


def measure_growth(
    device: str, rounds: int, minutes: float, series: Sequence[Series]
) -> Iterator[Row]:
    """Measure each point of the series.

    Args:
        device: "cpu" or "cuda".
        rounds: how often each call is timed, after one that warms up; once where time is short.
        minutes: a point that would end later is left out.
        series: see :func:`all_series`.

    Yields:
        a row for each point: ``row``, ``way``, ``axis`` and ``value``; ``seconds`` and
        ``baseline_seconds``, of each round; ``peak_mib`` and ``baseline_peak_mib``, beyond what the
        process held before, None where the system does not tell; ``found``, the objects in the
        first image, None in training; ``alternated``, whether the two took turns or, for the sake
        of memory, ran one after the other; ``left_out``, for "ours" and "detectron2" the reason why
        it is not measured, "" where it is.
    """
    deadline = time.monotonic() + 60 * minutes
    for one in series:
        history: dict[str, list[tuple[int, Measured]]] = {name: [] for name in CONTENDERS}
        left_out = dict.fromkeys(CONTENDERS, "")
        for value in one.values:
            point = one.point(value)
            room = available_gib(device)
            predict = functools.partial(_predict, value=value, power=one.first_power)
            peaks = {name: predict(history[name], cost=_gib) for name in CONTENDERS}
            for name, peak in peaks.items():
                if not left_out[name] and peak > room:
                    left_out[name] = f"needs about {peak:.0f} GiB of {room:.0f}"
            going = [name for name in CONTENDERS if not left_out[name]]
            each = sum(predict(history[name], cost=_seconds) for name in going)
            left = deadline - time.monotonic() - _START_SECONDS
            if device == "cuda" and point.processes > torch.cuda.device_count():
                left_out, going = dict.fromkeys(CONTENDERS, "needs a GPU for each process"), []
            elif going and left < 2 * each:
                why = f"would take {2 * each:.0f} s more" if each else "there was no time left"
                left_out, going = {**left_out, **dict.fromkeys(going, why)}, []
            times = rounds if left >= (1 + rounds) * each else 1
            together = len(going) * max((peaks[name] for name in going), default=0.0) < room
            found = _measure(point, going, device, times, room, together)
            for name in going:
                if name in found.results:
                    history[name].append((value, _summary(found.results[name])))
                else:
                    left_out[name] = f"ran out of {room:.0f} GiB"
            yield _row(one, value, found, left_out)


class _Found(NamedTuple):
    results: dict[str, list[Measured]]
    alternated: bool


def _measure(
    point: Point, names: Sequence[str], device: str, rounds: int, gib: float, together: bool
) -> _Found:
    """Measure contenders in turn, or one after the other; who gets no memory has no results.

    Raises:
        UserError: where one ends early for another reason.
    """
    try:
        return _measure_any(point, names, device, rounds, gib, together)
    except Exception as error:
        traceback.print_exception(error)
        raise UserError(
            f"growth ended early at {point}; the traceback above says why, and --json has what was "
            "measured before"
        ) from error


def _measure_any(
    point: Point, names: Sequence[str], device: str, rounds: int, gib: float, together: bool
) -> _Found:
    if together and len(names) > 1:
        with contextlib.suppress(OutOfMemory, BrokenProcessPool):
            return _Found(_time(point, names, device, rounds, gib / len(names)), True)
    results = {}
    for name in names:
        with contextlib.suppress(OutOfMemory, BrokenProcessPool):
            results |= _time(point, [name], device, rounds, gib)
    return _Found(results, False)


def _time(
    point: Point, names: Sequence[str], device: str, rounds: int, gib: float
) -> dict[str, list[Measured]]:
    """Time contenders in turn, each in processes of its own; the first round warms up.

    Raises:
        OutOfMemory, BrokenProcessPool: where one gets no more memory, or is ended for it.
    """
    context = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
    if device == "cpu":  # a process then starts in no time
        context.set_forkserver_preload(list(_PRELOADED))
    threads = max(1, torch.get_num_threads() // point.processes)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pools: dict[str, list[ProcessPoolExecutor]] = {}
        for name in names:
            pools[name] = [
                stack.enter_context(ProcessPoolExecutor(1, context)) for _ in range(point.processes)
            ]
            meeting, share = str(Path(folder, name)), gib / point.processes
            starting = [
                pool.submit(build_point, point, name, device, threads, rank, meeting, share)
                for rank, pool in enumerate(pools[name])
            ]
            for start in starting:
                start.result()
        calls = {name: functools.partial(_ask_all, pools[name]) for name in names}
        return time_in_turn(calls, 1 + rounds, warm_up=0, measure=lambda call: call())


def _ask_all(pools: Sequence[ProcessPoolExecutor]) -> Measured:
    """Make a call in all processes of a point at once: its longest time, and their memory."""
    futures = [pool.submit(measure_point) for pool in pools]
    found = [future.result() for future in futures]
    peaks = [one.peak_mib for one in found]
    peak = None if None in peaks else sum(peaks)
    return Measured(max(one.seconds for one in found), peak, found[0].found)


def _summary(rounds: Sequence[Measured]) -> Measured:
    """The median of the rounds after the first, and the largest peak of all."""
    peaks = [one.peak_mib for one in rounds if one.peak_mib is not None]
    seconds = statistics.median(one.seconds for one in rounds[1:])
    return Measured(seconds, max(peaks, default=None), rounds[0].found)


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
    """A point in words, for whoever waits."""
    words = []
    for name, prefix in zip(CONTENDERS, ("", "baseline_"), strict=True):
        seconds, peak = row[f"{prefix}seconds"], row[f"{prefix}peak_mib"]
        memory = "" if peak is None else f", {peak} MiB"
        told = f"{statistics.median(seconds):.3g} s{memory}" if seconds else row["left_out"][name]
        words.append(f"{name} {told}")
    return f"{row['axis']} {row['value']}, {row['row']}, {row['way']}: {'; '.join(words)}"


# --- what is left, and what a point will take


def available_gib(device: str) -> float:
    """The memory that new processes can take without harm to others, in GiB.

    That is of the GPU, or of the machine and of the control group (a container's limit), less a
    GiB; without end where the system does not tell.
    """
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**30
    sizes = [math.inf]
    with contextlib.suppress(OSError, KeyError):
        sizes.append(_numbers("/proc/meminfo")["MemAvailable:"] / 2**20)
    with contextlib.suppress(OSError, KeyError, ValueError):  # "max" where there is no limit
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current")
        )
        cache = _numbers("/sys/fs/cgroup/memory.stat")["inactive_file"]
        sizes.append((limit - used + cache) / 2**30)
    return min(sizes) - _SPARE_GIB


def _numbers(path: str) -> dict[str, int]:
    """The first words of a file's lines, and the numbers behind them."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines}


def _gib(measured: Measured) -> float:
    return (measured.peak_mib or 0.0) / 1024


def _seconds(measured: Measured) -> float:
    return measured.seconds


def _predict(
    history: Sequence[tuple[int, Measured]],
    value: int,
    power: float,
    cost: Callable[[Measured], float],
) -> float:
    """What the next point takes, with a margin: the last two go on as a power of the value.

    ``power`` is that of a history of one. From none it is 0.
    """
    if not history:
        return 0.0
    x, last = history[-1]
    if len(history) > 1 and min(cost(last), cost(history[-2][1])) > 0:
        before = history[-2]
        power = math.log(cost(last) / cost(before[1])) / math.log(x / before[0])
    return _MARGIN * cost(last) * (value / x) ** min(max(power, 0.0), 3.0)
