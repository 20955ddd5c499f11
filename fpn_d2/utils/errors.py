"""The one kind of error that a user can cause, and how it ends a program."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """A setting, a file or a data set that cannot work.

    Its message is one sentence (or two) that names the key, file or image at fault and the
    remedy. ``train_net.py`` and every tool print it without a traceback and exit with code 2.

    Args:
        message: the sentence. If the error comes from a worker process of a ``DataLoader``, torch
            raises it anew with the worker's traceback as its message, of which only the sentence
            is kept.
    """

    def __init__(self, message: str):
        super().__init__(sentence_in(message) or message)


def sentence_in(traceback: str) -> str | None:
    """Find the sentence of a :class:`UserError` in the traceback of another process.

    Args:
        traceback: the traceback as text.

    Returns:
        the sentence; None if the traceback is of another error.
    """
    name, _, sentence = traceback.strip().rpartition("\n")[2].partition(": ")
    return sentence if name == f"{UserError.__module__}.{UserError.__qualname__}" else None


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program on a :class:`UserError`: its sentence on stderr, exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
