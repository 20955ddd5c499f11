"""Pickles from elsewhere: read without running what is in them.

A pickle is a program. Of the functions that it may call only those are let through that rebuild
NumPy arrays, in this package's own form (see numpy_pickles.py), and plain containers need none.
"""

import mmap
import os
import pickle
import pickletools
from typing import Any

from ..utils.errors import UserError
from .numpy_pickles import NUMPY_GLOBALS

__all__ = ["load_arrays"]

_ALLOWED = {
    ("_codecs", "encode"),  # how protocol 2 writes an array's bytes
    ("collections", "OrderedDict"),
}
_LONG = 4096  # bytes
# Opcodes that could fill the memory with a number alone: a memo as long as the number says.
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT"}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in NUMPY_GLOBALS:
            return NUMPY_GLOBALS[f"{module}.{name}"]
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, and only arrays belong there")


def load_arrays(path: str, what: str, remedy: str) -> Any:
    """Read a pickle of plain containers and NumPy arrays; nothing else in it is run or built.

    Args:
        path: the file.
        what: what the file is, for the message.
        remedy: what the user can do about a bad one.

    Returns:
        its content.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    try:
        _check_memo(path)
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except (OSError, MemoryError) as error:
        raise UserError(
            f"{what} {path} cannot be read ({error or 'too large'}); {remedy}"
        ) from error
    except Exception as error:  # a damaged pickle raises nearly any error
        if os.path.getsize(path) == 0:
            raise UserError(f"{what} {path} is empty; {remedy}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what} {path} cannot be read ({reason}); {remedy}") from error


def _check_memo(path: str) -> None:
    """Refuse a memo index that no honest pickle has: Python allocates as many places.

    Raises:
        pickle.UnpicklingError: where there is one.
    """
    with open(path, "rb") as file:
        content = _Skimmed(file.fileno(), 0, access=mmap.ACCESS_READ)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in _MEMO_WRITES and argument > number:
            raise pickle.UnpicklingError("its memo is larger than the file")


class _Skimmed(mmap.mmap):
    """A file whose long parts, the arrays, are passed over without reading them from the disk."""

    def read(self, n: int = -1) -> bytes | memoryview:
        if n < _LONG:
            return super().read(n)
        start = self.tell()
        self.seek(min(start + n, len(self)))
        return memoryview(self)[start : start + n]
