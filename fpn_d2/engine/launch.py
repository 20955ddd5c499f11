"""Read a command line and start its processes, one or several; a user's error ends them with its
sentence alone."""

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
    """Return the config of a command line, with batch and schedule for this number of processes.

    In it ``--epochs`` has become iterations and ``MODEL.NUM_CLASSES_FROM_DATA`` a number. Nothing
    is written before this.

    Args:
        args: the options as train_net.py parses them; ``config_file`` becomes the file's path.

    Raises:
        UserError: if the config, or what it says about data, cannot work.
    """
    if not (args.config_file or args.opts):
        raise UserError(
            "no config is named: give --config-file, such as "
            "configs/quick/Faster-RCNN/faster_rcnn_R_18_FPN.yaml (--help lists the options)"
        )
    cfg = load_config(args.config_file, args.opts)
    # Detectron2 opens the file to log its content; the user may have given a name, not a path.
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
        # As for a network without classes, so that the data may have any number of them.
        images = load_train_dataset(changed(cfg, {"MODEL.META_ARCHITECTURE": "ProposalNetwork"}))
        values: dict[str, Any] = {}
        if cfg.MODEL.NUM_CLASSES_FROM_DATA:  # from here on the run's config.yaml has the number
            values = {**_number_of_classes(cfg), "MODEL.NUM_CLASSES_FROM_DATA": False}
        if epochs is not None:
            values |= _in_epochs(cfg, epochs, images)
        given = {*args.opts[::2]} - {"MODEL.NUM_CLASSES_FROM_DATA"}  # already applied
        cfg = changed(cfg, {k: v for k, v in values.items() if k not in given})
    check_schedule(cfg)  # --epochs and the number of processes have changed it
    return cfg


def scale_schedule(cfg: CfgNode, processes: int) -> CfgNode:
    """Scale as Detectron2's ``auto_scale_workers``, but round no short period or training to 0."""
    scaled = DefaultTrainer.auto_scale_workers(cfg, processes)
    keys = ("SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")
    return changed(scaled, {k: value_of(scaled, k) or min(value_of(cfg, k), 1) for k in keys})


def _number_of_classes(cfg: CfgNode) -> dict[str, int]:
    """Return the number of classes of the training data, already loaded, by config key."""
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
    """Return the schedule for so many epochs, by config key; steps, warm-up and evaluations keep
    their share of it."""
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

    Under torchrun this process is one of those that it has started, and ``args`` ask for none. A
    :class:`UserError` in any process ends the program with its sentence on stderr and exit code 2;
    so does a full disk. If a training has stopped for a signal, the exit code is 128 plus the
    signal's number.

    Args:
        main: what each process runs.
        args: the options as :func:`detectron2.engine.default_argument_parser` parses them.
    """
    run = functools.partial(_run, main)
    with exit_on_user_error():
        if restart_count() is not None:
            _join_torchrun(args)
            run(args)
            if distributed.is_initialized():
                distributed.destroy_process_group()
        elif args.num_gpus * args.num_machines > 1:
            _check_machines(args)
            _check_gpus(args)
            _launch_processes(run, args)
        else:
            run(args)


def restart_count() -> int | None:
    """Return how often torchrun has restarted this process; None if torchrun did not start it."""
    if not distributed.is_torchelastic_launched():
        return None
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def starter() -> str:
    """Return a name, which no other ever has, for what started this process, such as torchrun."""
    pid = os.getppid()
    name = f"{socket.gethostname()} {pid}"
    with contextlib.suppress(OSError):  # on Linux: process ids are reused
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        name += f" {boot} {stat.rpartition(')')[2].split()[19]}"  # its start time: man 5 proc
    return name


def _check_machines(args: argparse.Namespace) -> None:
    """Refuse a machine's number with which the others would wait for it in vain."""
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank is {args.machine_rank}, and --num-machines is {args.num_machines}; "
            f"number the machines from 0 to {args.num_machines - 1}"
        )
    if args.dist_url == "auto" and args.num_machines > 1:
        raise UserError(
            "--dist-url auto is for one machine; give all machines the first one's address, such "
            "as --dist-url tcp://10.0.0.1:29500"
        )


def _check_gpus(args: argparse.Namespace) -> None:
    """Refuse more GPUs than there are, and training on CPUs where Detectron2 uses NCCL."""
    if not torch.cuda.is_available():
        return
    count = torch.cuda.device_count()
    device = _device_of_all(args)
    # An evaluation exchanges no tensors.
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


def _device_of_all(args: argparse.Namespace) -> str:
    """Return ``MODEL.DEVICE``; several processes of a machine cannot share one numbered GPU."""
    device = load_config(args.config_file, args.opts).MODEL.DEVICE
    processes = max(args.num_gpus, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if device.startswith("cuda:") and processes > 1:
        raise UserError(
            f"MODEL.DEVICE is {device}, and each of several processes takes a GPU of its own: set "
            "it to cuda, and choose the GPUs by CUDA_VISIBLE_DEVICES"
        )
    return device


def _join_torchrun(args: argparse.Namespace) -> None:
    """Connect to torchrun's other processes, as Detectron2's launcher does for its own."""
    if args.num_gpus > 1 or args.num_machines > 1:
        raise UserError(
            "torchrun has started the processes already; leave out --num-gpus and --num-machines, "
            "and give torchrun --nproc-per-node and --nnodes"
        )
    if int(os.environ["WORLD_SIZE"]) == 1:
        return
    on_gpus = _device_of_all(args).startswith("cuda")
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
    """Agree on a name for this start among its processes; no process of an earlier start has it.

    torchrun's store outlives a restart and keeps the addresses of killed processes, which a
    process would dial for ever. torchrun's count of restarts cannot tell the starts apart: each
    machine counts its own.

    Process 0 makes the name. Each other process asks for it under a name of its own. Until all have
    it, process 0 answers the latest request of each: an earlier one may be a killed process's.
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
    """Start the processes, pass SIGINT and SIGTERM on to them and wait for them."""
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
            sys.exit(error.exit_code)  # of a signal that only the processes received
    if received:  # even before the training began to listen
        sys.exit(EXIT_CODES[received[0]])


def _run(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> Any:
    """Run ``main`` in one process; what the machine lacks becomes a :class:`UserError`."""
    keep_freed_memory()
    try:
        return main(args)
    except (RuntimeError, OSError) as error:
        sentence = machine_fault(error) or _file_fault(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _file_fault(error: RuntimeError | OSError) -> str | None:
    """Return a sentence on a file without permission or a full disk; None for other errors."""
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{file or 'a file'} may not be used ({error.strerror}); change its permissions, or "
            "set OUTPUT_DIR to another folder"
        )
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    # On a full disk the end of a training fails too, when it writes its last lines. The first
    # sentence counts.
    first = error.__context__
    while first is not None and not isinstance(first, UserError):
        first = first.__context__
    return str(
        first
        or f"{file or 'a file of OUTPUT_DIR'} could not be written ({error.strerror}); make room "
        "on the disk and go on with --resume"
    )
