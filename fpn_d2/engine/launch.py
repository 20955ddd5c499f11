"""A command line, and the processes that it starts: one or several; a user's error ends them with
its sentence alone."""

import argparse
import contextlib
import errno
import functools
import logging
import math
import multiprocessing
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.engine import launch as launch_processes
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..config import changed, config_file, load_config
from ..config_combinations import check_schedule
from ..config_values import value_of
from ..data import check_names, check_settings, load_train_dataset
from ..utils.devices import keep_freed_memory
from ..utils.errors import UserError, exit_on_user_error, machine_fault, sentence_in
from .hooks import EXIT_CODES, handling_signals

logger = logging.getLogger(__name__)


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of a command line, with batch and schedule for this number of processes.

    ``--epochs`` are iterations in it, and ``MODEL.NUM_CLASSES_FROM_DATA`` a number. Nothing is
    written before this.

    Args:
        args: as train_net.py parses them; ``config_file`` becomes the path of the file.

    Raises:
        UserError: where the config, or what it says about data, cannot work.
    """
    if not (args.config_file or args.opts):
        raise UserError(
            "no config is named: give --config-file, such as "
            "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml (--help lists the options)"
        )
    cfg = load_config(args.config_file, args.opts)
    # Detectron2 logs what is in the file, which may be called by its name.
    args.config_file = config_file(args.config_file)
    epochs = getattr(args, "epochs", None)
    if epochs is not None:
        _check_epochs(epochs, args)
    training = not args.eval_only
    if training:
        cfg = scale_schedule(cfg, comm.get_world_size())
    check_settings(cfg, training=training)
    if epochs is not None or cfg.MODEL.NUM_CLASSES_FROM_DATA:
        check_names(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        # A network without classes takes any number of them.
        images = load_train_dataset(changed(cfg, {"MODEL.META_ARCHITECTURE": "ProposalNetwork"}))
        values: dict[str, Any] = {}
        if cfg.MODEL.NUM_CLASSES_FROM_DATA:  # the run's own config.yaml has the number from here on
            values = {**_number_of_classes(cfg), "MODEL.NUM_CLASSES_FROM_DATA": False}
        if epochs is not None:
            values |= _in_epochs(cfg, epochs, images)
        given = {*args.opts[::2]} - {"MODEL.NUM_CLASSES_FROM_DATA"}  # which is done
        cfg = changed(cfg, {k: v for k, v in values.items() if k not in given})
    check_schedule(cfg)  # --epochs and the number of processes have made another one
    return cfg


def scale_schedule(cfg: CfgNode, processes: int) -> CfgNode:
    """Detectron2's ``auto_scale_workers``, which would round a short period or training to 0."""
    scaled = DefaultTrainer.auto_scale_workers(cfg, processes)
    keys = ("SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")
    return changed(scaled, {k: value_of(scaled, k) or min(value_of(cfg, k), 1) for k in keys})


def _number_of_classes(cfg: CfgNode) -> dict[str, int]:
    """The number of classes of the training data, which have been loaded, by its keys."""
    name = cfg.DATASETS.TRAIN[0]
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise UserError(
            f"data set {name} has no list of classes, and MODEL.NUM_CLASSES_FROM_DATA is True; set "
            "it to False, and the number of classes"
        )
    return {f"MODEL.{heads}.NUM_CLASSES": len(classes) for heads in ("ROI_HEADS", "RETINANET")}


def _check_epochs(epochs: float, args: argparse.Namespace) -> None:
    if args.eval_only:
        raise UserError("--epochs is for a training; leave it out with --eval-only")
    if not (math.isfinite(epochs) and epochs > 0):
        raise UserError(f"--epochs is {epochs}; give a number above 0")
    if "SOLVER.MAX_ITER" in args.opts[::2]:
        raise UserError("--epochs and SOLVER.MAX_ITER both say how long to train; give one of them")


def _in_epochs(cfg: CfgNode, epochs: float, images: Any) -> dict[str, Any]:
    """The schedule of so many epochs, by its keys; steps, warm-up and evaluations keep their shares
    of it."""
    try:
        count = len(images)
    except TypeError as error:  # a stream
        raise UserError(
            f"--epochs counts images, and {', '.join(cfg.DATASETS.TRAIN)} does not say how many it "
            "has; give SOLVER.MAX_ITER"
        ) from error
    solver, period = cfg.SOLVER, cfg.TEST.EVAL_PERIOD
    iterations = max(1, math.ceil(epochs * count / solver.IMS_PER_BATCH))
    scale = iterations / solver.MAX_ITER
    steps = dict.fromkeys(max(1, round(step * scale)) for step in solver.STEPS)
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": tuple(step for step in steps if step < iterations),
        "SOLVER.WARMUP_ITERS": round(solver.WARMUP_ITERS * scale),
        "TEST.EVAL_PERIOD": round(period * scale) or min(period, 1),
    }


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in as many processes as ``args`` ask for; on CPUs too (gloo).

    Under torchrun this is one of the processes that it has started, and ``args`` ask for none. A
    :class:`UserError` ends the program with its sentence on stderr and exit code 2, from whichever
    process it comes, and so does a full disk. A signal that a training has stopped for ends it
    with 128 and the signal's number.

    Args:
        main: the function of one process.
        args: as :func:`detectron2.engine.default_argument_parser` parses them.
    """
    run = functools.partial(_run, main)
    with exit_on_user_error():
        if restart_count() is not None:
            _join_torchrun(args)
            run(args)
            if distributed.is_initialized():
                distributed.destroy_process_group()
        elif args.num_gpus * args.num_machines > 1:
            _check_gpus(args)
            _launch_processes(run, args)
        else:
            run(args)


def restart_count() -> int | None:
    """How often torchrun has restarted this process; None if torchrun did not start it."""
    if not distributed.is_torchelastic_launched():
        return None
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def starter() -> str:
    """The process that started this one, such as torchrun, by a name that no other ever has."""
    pid = os.getppid()
    name = f"{socket.gethostname()} {pid}"
    with contextlib.suppress(OSError):  # on Linux: numbers of processes come again
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        name += f" {boot} {stat.rpartition(')')[2].split()[19]}"  # its start, see man 5 proc
    return name


def _check_gpus(args: argparse.Namespace) -> None:
    """Refuse what Detectron2's launcher asserts, and CPUs where it takes NCCL."""
    if not torch.cuda.is_available():
        return
    count = torch.cuda.device_count()
    device = load_config(args.config_file, args.opts).MODEL.DEVICE
    # An evaluation sends no tensors.
    if not (device.startswith("cuda") or getattr(args, "eval_only", False)):
        raise UserError(
            f"--num-gpus {args.num_gpus} takes NCCL wherever there is a GPU, and MODEL.DEVICE is "
            f"{device}; set CUDA_VISIBLE_DEVICES= before the command, or start it by torchrun"
        )
    if args.num_gpus > count:
        raise UserError(
            f"--num-gpus {args.num_gpus} asks for more GPUs than this machine has, {count}; give "
            "that number or fewer (SOLVER.REFERENCE_WORLD_SIZE rescales the schedule)"
        )


def _join_torchrun(args: argparse.Namespace) -> None:
    """Find the other processes, as Detectron2's launcher does for those that it starts."""
    if args.num_gpus > 1 or args.num_machines > 1:
        raise UserError(
            "torchrun has started the processes already; leave out --num-gpus and --num-machines, "
            "and give torchrun --nproc-per-node and --nnodes"
        )
    if int(os.environ["WORLD_SIZE"]) == 1:
        return
    on_gpus = load_config(args.config_file, args.opts).MODEL.DEVICE.startswith("cuda")
    local_rank = int(os.environ["LOCAL_RANK"])
    if on_gpus:
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise UserError(
                f"--nproc-per-node asks for {os.environ['LOCAL_WORLD_SIZE']} processes, but this "
                f"machine has {count} GPUs; give torchrun one process for each GPU"
            )
        torch.cuda.set_device(local_rank)
    is_shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if local_rank == 0 and is_shared and int(os.environ["GROUP_WORLD_SIZE"]) > 1:
        logger.warning(
            "A machine that fails cannot come back to this training: torchrun keeps the store of "
            "the first rendezvous; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where torchrun starts"
        )
    store, rank, world_size = next(distributed.rendezvous("env://", timeout=DEFAULT_TIMEOUT))
    distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        timeout=DEFAULT_TIMEOUT,
        store=distributed.PrefixStore(agreed_prefix(store, rank, world_size), store),
        rank=rank,
        world_size=world_size,
    )
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()


def agreed_prefix(store: distributed.Store, rank: int, world_size: int) -> str:
    """A name for this start that all its processes have, and no process of an earlier start.

    torchrun's store outlives a restart, with the addresses of killed processes in it, which a
    process would dial for ever. torchrun's count of restarts cannot tell the starts apart: each
    machine counts its own.

    Process 0 makes the name. Each other process asks for it under a name of its own, until when
    process 0 answers whatever was asked last, since a killed process may have asked before.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"asked_by_{rank}", own)
        prefix = store.get(f"answer_to_{own}").decode()  # waits for it
        store.set(f"{prefix}_reached_{rank}", own)
        return prefix
    missing = set(range(1, world_size))
    deadline = time.monotonic() + DEFAULT_TIMEOUT.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise UserError(
                f"process {min(missing)} of {world_size} did not come within {DEFAULT_TIMEOUT}; "
                "look at what its machine printed, and start again with --resume"
            )
        for other in missing:
            if store.check([f"asked_by_{other}"]):
                store.set(f"answer_to_{store.get(f'asked_by_{other}').decode()}", own)
        time.sleep(0.05)
        missing = {other for other in missing if not store.check([f"{own}_reached_{other}"])}
    return own


def _launch_processes(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Start the processes, hand SIGINT and SIGTERM to them and wait for them."""
    received: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        received.append(number)
        for process in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    try:
        with handling_signals(pass_on):
            launch_processes(
                main,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except ProcessRaisedException as error:
        # Its message is the child's traceback.
        sentence = sentence_in(str(error)) or machine_fault(RuntimeError(str(error)))
        if sentence is None:
            raise
        raise UserError(sentence) from error
    except ProcessExitedException as error:
        if not received:
            if error.signal_name in ("SIGKILL", "SIGBUS"):
                raise UserError(
                    f"process {error.error_index} of {args.num_gpus} was ended from outside by "
                    f"{error.signal_name}, as where memory is short: use fewer processes or lower "
                    "SOLVER.IMS_PER_BATCH"
                ) from error
            if error.exit_code not in EXIT_CODES.values():
                raise
            sys.exit(error.exit_code)  # of a signal that met the processes alone
    if received:  # also before the training began to listen
        sys.exit(EXIT_CODES[received[0]])


def _run(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> Any:
    """One process: ``main``, with an error in words if the machine lacks what it needs."""
    keep_freed_memory()
    try:
        return main(args)
    except (RuntimeError, OSError) as error:
        sentence = machine_fault(error) or _file_fault(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _file_fault(error: RuntimeError | OSError) -> str | None:
    """One sentence for a file that may not be used, and for a full disk; None for other errors."""
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{file} may not be used ({error.strerror}); change its permissions, or set OUTPUT_DIR "
            "to another folder"
        )
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    # On a full disk a training's end fails too, as it writes its last lines. What counts is the
    # first sentence.
    first = error.__context__
    while first is not None and not isinstance(first, UserError):
        first = first.__context__
    return str(
        first
        or f"{file or 'a file of OUTPUT_DIR'} could not be written ({error.strerror}); make room "
        "on the disk and go on with --resume"
    )
