"""Starting one process or several, and ending on a user's error with its sentence alone."""

import argparse
from collections.abc import Callable
from typing import Any

from detectron2.engine import launch as launch_processes
from torch.multiprocessing import ProcessRaisedException

from ..errors import UserError, exit_on_user_error, sentence_in

__all__ = ["launch"]


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in the processes that ``args`` ask for; on CPUs too (gloo).

    A :class:`UserError` ends the program with its sentence on stderr and exit code 2, from
    whichever process it came.

    Args:
        main: the function of one process.
        args: as :func:`detectron2.engine.default_argument_parser` parses them.
    """
    with exit_on_user_error():
        try:
            launch_processes(
                main,
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
