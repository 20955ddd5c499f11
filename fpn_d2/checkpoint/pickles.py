"""Pickles of NumPy arrays, read without running what is in them.

A pickle is a program. The unpickler here lets it call only stand-ins for what rebuilds NumPy's
arrays; plain containers need no call at all. NumPy itself rebuilds a dtype from whatever state the
pickle holds. If the state of an object dtype denies that it holds objects, the array takes bytes of
the file for addresses, and the file can run code although it names no function but NumPy's. The
stand-ins therefore check the state and use NumPy's own, unaltered dtype.
"""

import mmap
import os
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from ..utils.errors import UserError

_ALLOWED = {
    ("_codecs", "encode"),  # how protocol 2 writes an array's bytes
    ("collections", "OrderedDict"),
}
_LONG = 4096  # bytes
# Opcodes that could fill the memory with a number alone: the memo grows as long as it says.
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT"}

# Numbers, text of a fixed length and objects; no structures, whose fields may lie anywhere.
_CODE = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU]\d{1,6}|O8?")
_scalar = np.float64(0).__reduce__()[0]  # its module has another name in each NumPy


class PickledDtype:
    """``numpy.dtype(code, align, copy)`` and its state, as a pickle gives them."""

    def __init__(self, code: Any, *_: Any):
        if not (isinstance(code, str) and _CODE.fullmatch(code)):
            raise pickle.UnpicklingError(
                f"it holds an array of type {str(code)[:20]!r}, and only numbers belong there"
            )
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, byte_order, subarray, names, fields, itemsize, _, flags, *more = state
        honest = (
            byte_order in ("<", ">", "|", "=")
            and (subarray, names, fields) == (None, None, None)
            and itemsize in (-1, self.dtype.itemsize)
            and flags in (self.dtype.flags, self.dtype.flags if self.dtype.hasobject else 0)
            and not any(more)
        )
        if not honest:
            raise pickle.UnpicklingError(f"it describes the array type {self.dtype} wrongly")
        self.dtype = self.dtype.newbyteorder(byte_order)


class PickledArray(np.ndarray):
    """An array that stays empty until its state is set."""

    def __new__(cls, *_: Any) -> "PickledArray":
        return super().__new__(cls, (0,))

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, fortran, raw = state
        super().__setstate__((1, shape, _real(dtype), fortran, raw))


# No default arguments: a pickle may set attributes of a function that it has been given.
def _reconstruct(cls: Any, shape: Any, typecode: Any) -> PickledArray:
    return PickledArray()


def _make_scalar(dtype: Any, raw: Any) -> np.generic:
    return _scalar(_real(dtype), raw)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, *order: Any) -> np.ndarray:
    """NumPy's function for protocol 5: (order,) or, since 2.4, (order, axis_order)."""
    array = np.frombuffer(buffer, dtype=_real(dtype))
    if len(order) > 1 and order[0] == "K" and order[1] is not None:
        return array.reshape(shape).transpose(order[1])
    return array.reshape(shape, order=order[0])


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write the content of an empty array. A number as its argument would
    make as many zeros."""
    return b""


def _real(dtype: Any) -> np.dtype:
    if not isinstance(dtype, PickledDtype):
        raise pickle.UnpicklingError("it holds an array without a type")
    return dtype.dtype


# By the name in the pickle, with the modules of NumPy 1 and of NumPy 2.
NUMPY_GLOBALS = {
    "numpy.dtype": PickledDtype,
    "numpy.ndarray": PickledArray,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": _reconstruct,
            "multiarray.scalar": _make_scalar,
            "numeric._frombuffer": _from_buffer,
        }.items()
    },
}


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
        what, remedy: for the message: what the file is, and what to do about a bad one.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    try:
        _check_memo(path)
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly any error
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            raise UserError(f"{what} {path} is empty; {remedy}") from error
        unnamed = "too large" if isinstance(error, MemoryError) else type(error).__name__
        reason = " ".join(str(error).split()) or unnamed
        raise UserError(f"{what} {path} cannot be read ({reason}); {remedy}") from error


def _check_memo(path: str) -> None:
    """Refuse a memo index that no honest pickle has: Python allocates as many places."""
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
