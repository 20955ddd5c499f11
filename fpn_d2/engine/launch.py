"""Starts one process or several, and ends on a user's error with its sentence alone."""

import argparse
import contextlib
import errno
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import launch as launch_processes
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..config import load_config
from ..utils.devices import keep_freed_memory
from ..utils.errors import UserError, exit_on_user_error, machine_fault, sentence_in
from .hooks import EXIT_CODES, handling_signals


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
            _launch_processes(run, args)
        else:
            run(args)


def restart_count() -> int | None:
    """How often torchrun has restarted this process; None if torchrun did not start it."""
    if not distributed.is_torchelastic_launched():
        return None
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


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
    # The agent's store outlives a restart, with the addresses of killed processes in it, which this
    # process would dial for ever; so each start has a prefix of its own.
    store, rank, world_size = next(distributed.rendezvous("env://", timeout=DEFAULT_TIMEOUT))
    distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        timeout=DEFAULT_TIMEOUT,
        store=distributed.PrefixStore(f"restart_{restart_count()}", store),
        rank=rank,
        world_size=world_size,
    )
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()


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
        # A signal that met the processes alone has made them end with its code.
        if not received and error.signal_name in ("SIGKILL", "SIGBUS"):
            raise UserError(
                f"process {error.error_index} of {args.num_gpus} was ended from outside by "
                f"{error.signal_name}, as where memory is short: use fewer processes or lower "
                "SOLVER.IMS_PER_BATCH"
            ) from error
        if not received and error.exit_code not in EXIT_CODES.values():
            raise
        sys.exit(EXIT_CODES[received[0]] if received else error.exit_code)
    if received:  # before the training began to listen
        sys.exit(EXIT_CODES[received[0]])


def _run(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> Any:
    """One process: ``main``, with an error in words if the machine lacks what it needs."""
    keep_freed_memory()
    try:
        return main(args)
    except (RuntimeError, OSError) as error:
        sentence = machine_fault(error)
        if sentence is not None:
            raise UserError(sentence) from error
        number = getattr(error, "errno", None)
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{error.filename} may not be used ({error.strerror}); change its permissions, or "
                "set OUTPUT_DIR to another folder"
            ) from error
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        # On a full disk a training's end fails too, as it writes its last lines. What counts is the
        # first sentence.
        first = error.__context__
        while first is not None and not isinstance(first, UserError):
            first = first.__context__
        where = error.filename or "a file of OUTPUT_DIR"
        raise UserError(
            str(first)
            if first
            else f"{where} could not be written ({error.strerror}); make room on the disk and go "
            "on with --resume"
        ) from error
