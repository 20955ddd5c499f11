"""The one kind of error that a user can cause, and how it ends a program."""

import contextlib
import errno
import sys
from collections.abc import Iterator, Sequence


class UserError(ValueError):
    """A setting, a file or a data set that cannot work.

    Its message is one sentence (or two) that names the key, file or image at fault and the
    remedy. ``train_net.py`` and every tool print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str, sentences: Sequence[str] = ()):
        """``sentences`` are all faults, if the message names the first of several."""
        self.sentences = list(sentences)
        # torch raises an error of a DataLoader's worker again, with its traceback as the message.
        super().__init__(sentence_in(message) or message)


def sentence_in(traceback: str) -> str | None:
    """Find the sentence of a :class:`UserError` in another process's traceback; None if none."""
    name, _, sentence = traceback.strip().rpartition("\n")[2].partition(": ")
    return sentence if name == f"{UserError.__module__}.{UserError.__qualname__}" else None


def reason_of(error: object) -> str:
    """Return what another library's error says, on one line and shortened; its type if nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:296]} ..."


# What a machine lacks, and what helps, by the words of PyTorch or the system for it.
_LACKING = {
    "DataLoader worker": (
        "a process that reads images was ended from outside, as where memory or shared memory "
        "(/dev/shm) is short: set DATALOADER.NUM_WORKERS to fewer, such as 0, or give a container "
        "more by --shm-size"
    ),
    "Too many open files": (
        "more files are open than the system lets one process have: set a higher limit by "
        "`ulimit -n`, or DATALOADER.NUM_WORKERS to fewer"
    ),
    "out of memory": (
        "there is not enough memory on the GPU: lower SOLVER.IMS_PER_BATCH or "
        "INPUT.MIN_SIZE_TRAIN, in evaluation INPUT.MIN_SIZE_TEST, or set MODEL.DEVICE cpu"
    ),
    "can't allocate memory": (
        "there is not enough memory: lower SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN, in "
        "evaluation INPUT.MIN_SIZE_TEST"
    ),
    "Deformable Conv": (  # Detectron2's words for what it has for GPUs alone
        "deformable convolutions are trained on GPUs alone, and run on CPUs only without "
        "modulation and groups: set MODEL.DEVICE cuda, or MODEL.RESNETS.DEFORM_ON_PER_STAGE to "
        "False four times"
    ),
    "EADDRINUSE": (
        "the port of --dist-url is taken, perhaps by another training: give another, such as "
        "--dist-url auto"
    ),
}


def machine_fault(error: BaseException | None) -> str | None:
    """Return a sentence for an error that is neither a bug nor a user's setting, but a lack of
    memory, of files or of a port; None for any other."""
    if not isinstance(error, (RuntimeError, OSError)):
        return None
    return next((text for words, text in _LACKING.items() if words in str(error)), None)


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program on a :class:`UserError`, a full disk or a file without permission: one
    sentence on stderr, exit code 2. Ctrl-C ends it without a traceback."""
    # Names are of any characters; a program without a stdout (`>&-`) has None there.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        what = error.filename or "a file"
        print(
            f"error: {what}: {error.strerror}; make room there or change the permissions, or name "
            "another folder, and start again",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.excepthook = lambda *_: print("stopped", file=sys.stderr)
        raise  # Python then ends by the signal, so a shell's loop ends, too
