"""The one kind of error that a user can cause, and how it ends a program."""

import contextlib
import sys
from collections.abc import Iterator, Sequence


class UserError(ValueError):
    """A setting, a file or a data set that cannot work.

    Its message is one sentence (or two) that names the key, file or image at fault and the
    remedy. ``train_net.py`` and every tool print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str, sentences: Sequence[str] = ()):
        """``sentences`` are all faults, where the message names the first of several."""
        self.sentences = list(sentences)
        # Of a DataLoader's worker, torch raises it anew with the worker's traceback as its message.
        super().__init__(sentence_in(message) or message)


def sentence_in(traceback: str) -> str | None:
    """Find the sentence of a :class:`UserError` in another process's traceback; None if none."""
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
