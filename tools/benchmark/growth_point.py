"""A point of the task "growth": a process of its own builds a detector and runs it.

Such a process measures one thing only: nothing that ran before can hide its cost.
"""

import contextlib
import datetime
import gc
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine.defaults import create_ddp_model
from detectron2.modeling import RetinaNet
from torch import distributed, nn

from fpn_d2.config import load_config
from fpn_d2.config_checks import num_classes
from fpn_d2.engine import Trainer
from fpn_d2.inference import prepare_model
from fpn_d2.utils.devices import keep_freed_memory
from fpn_d2.utils.modules import settle_norms
from fpn_d2.utils.timing import seconds_of

from .contest import memory_of_process, peak_of
from .detectors import call_without_grad, training_step
from .networks import CONFIGS, STOCK_SIZE, image_record, output_of, spread_scores, stock_model

with contextlib.suppress(ImportError):  # Windows
    import resource

CONTENDERS = ("ours", "detectron2")
_START_SIZE = (320, 320)  # of the image whose statistics the norms hold
_WAIT_MINUTES = 5  # for another process of the same point
# How PyTorch, C++ and oneDNN say that there is no memory.
_REFUSED = ("memory", "bad_alloc", "could not create a primitive")
_DEVIATION = 2.0  # standard deviation of RetinaNet's class scores before the sigmoid


class Point(NamedTuple):
    """What is measured, in float32.

    Args:
        row: a config below ``configs/quick``, without ``.yaml``.
        way: "inference" of each image, or a "training" step of all.
        opts: overrides of the config, ``KEY, value, ...``.
        side: the sides of an image in pixels.
        objects: the annotated objects of an image.
        images: the images of a call, which the processes share.
        processes: how many processes compute it.
    """

    row: str
    way: str
    opts: tuple[str, ...] = ()
    side: int = 800
    objects: int = 8
    images: int = 1
    processes: int = 1


class Measured(NamedTuple):
    """What a call took in a process.

    Args:
        seconds: its time; None where its memory was measured.
        peak_mib: the most memory that it held beyond what was used before; None where it was timed,
            and where the system does not tell.
        found: how many objects were found in the process's first image; None in training.
    """

    seconds: float | None
    peak_mib: float | None
    found: int | None


class OutOfMemory(Exception):
    """The process got no more memory."""


_call: Callable[[], Any]
_device = "cpu"


def build_point(
    point: Point, contender: str, device: str, threads: int, rank: int, meeting: str, gib: float
) -> None:
    """Build in this process what :func:`measure_point` calls.

    Args:
        point, contender: what is measured, and whose it is (:data:`CONTENDERS`).
        device: "cpu" or "cuda".
        threads: how many threads PyTorch gets.
        rank: the process's number, from 0, among those of the point.
        meeting: a path that does not exist yet, by which several processes meet.
        gib: the memory that the process may take before it is refused more.
    """
    global _call, _device
    warnings.simplefilter("ignore")  # other packages warn about themselves
    torch.set_num_threads(threads)
    _device = device
    if device == "cuda":
        torch.cuda.set_device(rank)
    cfg, model = _build_model(point, contender, device)
    size = (point.side, point.side)
    images = range(rank, point.images, point.processes)
    records = [image_record(seed, size, point.objects) for seed in images]
    for record in records:
        record["instances"].gt_classes %= num_classes(cfg)
    if point.way == "inference":
        model = prepare_model(model) if contender == "ours" else model
        _call = call_without_grad(lambda one_each: [model([r])[0] for r in one_each], records)
    else:
        if point.processes > 1:
            model = _distribute(model, device, rank, meeting, point.processes)
        _call = training_step(cfg, model.train(), records, None)
    if device == "cpu":  # a GPU refuses by itself
        _limit_memory(gib)


def keep_and_warm_up() -> None:
    """Keep freed memory in this process from now on, as fpn_d2 programs do, and make the call.

    Raises:
        OutOfMemory: as :func:`measure_point`.
    """
    keep_freed_memory()
    measure_point()


def measure_point(of_memory: bool = False) -> Measured:
    """Make the call once.

    Args:
        of_memory: whether to measure its memory instead of its time; only before the process keeps
            freed memory, and after a first call, which allocates what stays, such as momentum.

    Raises:
        OutOfMemory: if the process gets no more memory.
    """
    outputs: list[Any] = []
    seconds = peak = None
    try:
        if of_memory:
            peak = peak_of(lambda: outputs.append(_call()), _device)
        else:
            gc.collect()
            seconds = seconds_of(lambda: outputs.append(_call()))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _REFUSED):
            raise OutOfMemory from None
        raise
    is_training = isinstance(outputs[0], float)
    return Measured(seconds, peak, None if is_training else len(outputs[0][0]["instances"]))


def _build_model(point: Point, contender: str, device: str) -> tuple[CfgNode, nn.Module]:
    """Return the config and the model, whose weights find objects; both contenders get the same."""
    path = CONFIGS / "quick" / f"{point.row}.yaml"
    opts = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", *STOCK_SIZE, *point.opts]
    cfg = load_config(path, opts)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    call = call_without_grad(model, [image_record(0, _START_SIZE)])
    settle_norms(model, call)
    if isinstance(model, RetinaNet):
        layer = model.head.cls_score
        with torch.no_grad():  # their mean stays: most of the anchors are background
            layer.weight.mul_(_DEVIATION / output_of(layer, call).std())
    else:
        spread_scores(model.roi_heads.box_predictor.cls_score, call)
    return cfg, (model if contender == "ours" else stock_model(cfg, model))


def _distribute(
    model: nn.Module, device: str, rank: int, meeting: str, processes: int
) -> nn.Module:
    backend = "nccl" if device == "cuda" else "gloo"
    # If one gets no memory, the others wait for it.
    limit = datetime.timedelta(minutes=_WAIT_MINUTES)
    distributed.init_process_group(
        backend, f"file://{meeting}", timeout=limit, rank=rank, world_size=processes
    )
    devices = [rank] if device == "cuda" else None
    return create_ddp_model(model, broadcast_buffers=False, device_ids=devices)


def _limit_memory(gib: float) -> None:
    """Limit this process to ``gib`` GiB beyond what it has."""
    with contextlib.suppress(OSError, NameError, ValueError):  # only Linux tells
        limit = memory_of_process("VmData") * 2**20 + gib * 2**30
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), hard))
