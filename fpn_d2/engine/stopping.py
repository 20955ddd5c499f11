"""Ending a training between two steps, in all processes after the same one."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from detectron2.engine import HookBase
from detectron2.utils import comm

__all__ = ["SIGNALS", "Halt", "Stopper", "exit_code_of"]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Ctrl-C in a terminal reaches a process twice where its parent passes it on.
_ECHO_SECONDS = 1.0


def exit_code_of(number: int) -> int:
    """The exit code of a program that a signal has ended, as shells count: 130 and 143."""
    return 128 + number


class Halt(BaseException):
    """Ends Detectron2's training loop, which would log any :class:`Exception` as a traceback."""

    def __init__(self, error: Exception):
        """
        Args:
            error: what the training is to raise instead.
        """
        super().__init__(str(error))
        self.error = error


class Stopper(HookBase):
    """Finishes the step that a signal meets, saves a checkpoint and ends the program.

    The processes tell each other of their signals after every step, so that they stop after the
    same one. Where there is one process, it does not wait for an evaluation to end. It must be
    behind the hooks that change the model and before those that save and evaluate it.
    """

    def __init__(self):
        self.interruptible = False
        self._received = 0
        self._received_at = 0.0
        self._agreed = 0
        self._cut_evaluation = False

    def before_evaluation(self) -> HookBase:
        """A hook for the place before the one that evaluates."""
        return _BeforeEvaluation(self)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM meanwhile, but for those that the program was told to ignore."""
        # Python hands signals to the main thread alone; without a trainer nobody would stop.
        if threading.current_thread() is not threading.main_thread() or self.trainer is None:
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN:  # as after nohup, or in the background
                    signal.signal(number, self._receive)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def before_step(self) -> None:
        """See :meth:`HookBase.before_step`."""
        self.interruptible = False

    def after_step(self) -> None:
        """Stop here where any process was told to; not after the last step, whose checkpoint the
        next hook writes."""
        received = comm.all_gather(self._received)
        self._agreed = next((number for number in received if number), 0)
        if self._agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            self._save()
            raise SystemExit(exit_code_of(self._agreed))

    def after_train(self) -> None:
        """See :meth:`HookBase.after_train`."""
        self.interruptible = False
        trainer = self.trainer
        if self._cut_evaluation and trainer.iter + 1 < trainer.max_iter:
            self._save()
        elif trainer.iter == trainer.max_iter - 1:
            # The last step has failed, and Detectron2 would evaluate what it left.
            error = sys.exc_info()[1]
            if error is not None:
                raise error
        elif self._agreed and trainer.iter >= trainer.max_iter:
            logger.info("Stopped before the last evaluation; --resume makes it")
            raise SystemExit(exit_code_of(self._agreed))

    def _save(self) -> None:
        iteration = self.trainer.iter
        self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        logger.info("Stopped after iteration %d; --resume goes on from there", iteration)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler, which Python runs between two of its instructions."""
        now = time.monotonic()
        if not self._received:
            self._received, self._received_at = number, now
            if comm.is_main_process():
                # The logger may be in use right now, and must not be entered twice.
                os.write(2, b"stopping after this step; Ctrl-C again ends it at once\n")
        elif number == signal.SIGINT and now - self._received_at > _ECHO_SECONDS:
            raise KeyboardInterrupt
        if self.interruptible and comm.get_world_size() == 1:
            self.interruptible, self._cut_evaluation = False, True
            raise SystemExit(exit_code_of(self._received))


class _BeforeEvaluation(HookBase):
    """Marks where a step is over and only evaluation and logs are left of its iteration."""

    def __init__(self, stopper: Stopper):
        self._stopper = stopper

    def after_step(self) -> None:
        self._mark()

    def after_train(self) -> None:
        self._mark()

    def _mark(self) -> None:
        self._stopper.interruptible = True
