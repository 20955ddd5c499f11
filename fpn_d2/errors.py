"""The one kind of error that a user can cause, and how it ends a program."""

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["UserError", "exit_on_user_error"]


class UserError(ValueError):
    """A setting, a file or a data set that cannot work.

    Its message is one sentence (or two) that names the key, file or image at fault and the
    remedy. ``train_net.py`` and every tool print it without a traceback and exit with code 2.
    """


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program on a :class:`UserError`: its sentence on stderr, exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
