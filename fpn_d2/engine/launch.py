"""Starting one process or several, and ending on a user's error with its sentence alone."""

import argparse
import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.engine import launch as launch_processes
from torch.multiprocessing import ProcessRaisedException

from ..errors import UserError, exit_on_user_error, sentence_in

__all__ = ["launch"]


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in the processes that ``args`` ask for; on CPUs too (gloo).

    A :class:`UserError` ends the program with its sentence on stderr and exit code 2, from
    whichever process it came, and so does a full disk.

    Args:
        main: the function of one process.
        args: as :func:`detectron2.engine.default_argument_parser` parses them.
    """
    with exit_on_user_error():
        try:
            launch_processes(
                _Main(main),
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
        except ProcessRaisedException as error:
            sentence = sentence_in(str(error))  # its message is the child's traceback
            if sentence is None:
                raise
            raise UserError(sentence) from error


class _Main:
    """``main`` in words where the disk is full; of a module, so that processes can be given it."""

    def __init__(self, main: Callable[[argparse.Namespace], Any]):
        self.main = main

    def __call__(self, args: argparse.Namespace) -> Any:
        with _full_disk_in_words():
            return self.main(args)


@contextlib.contextmanager
def _full_disk_in_words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # On a full disk, what ends the training fails in its turn: the first sentence is the one.
        first = error.__context__
        while first is not None and not isinstance(first, UserError):
            first = first.__context__
        where = error.filename or "a file of OUTPUT_DIR"
        sentence = (
            f"{where} could not be written ({error.strerror}); make room on the disk and go on "
            "with --resume"
        )
        raise UserError(str(first or sentence)) from error
