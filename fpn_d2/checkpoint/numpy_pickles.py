"""What stands in for NumPy's own constructors while a pickle from elsewhere is read.

NumPy rebuilds a dtype from whatever state the pickle has, flags included. A dtype of objects whose
flags deny it makes an array take bytes of the file for addresses, with which a file can run code
although it names no function but NumPy's. So the state is checked here, and NumPy's own, unaltered
dtype is used.
"""

import pickle
import re
from typing import Any

import numpy as np

__all__ = ["NUMPY_GLOBALS", "PickledArray", "PickledDtype"]

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
    """An array, empty until its state is set."""

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
    """numpy's own, of protocol 5: (order,) or, since 2.4, (order, axis_order)."""
    array = np.frombuffer(buffer, dtype=_real(dtype))
    if len(order) > 1 and order[0] == "K" and order[1] is not None:
        return array.reshape(shape).transpose(order[1])
    return array.reshape(shape, order=order[0])


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write the content of an empty array; with a number it would be as many
    zeros."""
    return b""


def _real(dtype: Any) -> np.dtype:
    if not isinstance(dtype, PickledDtype):
        raise pickle.UnpicklingError("it holds an array without a type")
    return dtype.dtype


# By the name in the pickle; the modules of NumPy 1 and 2.
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
