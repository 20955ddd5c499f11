"""Read files of checkpoints and proposals without running what is in them.

PyTorch's restricted unpickler reads tensors and plain containers from a ``.pth`` file, and
:func:`load_arrays` reads NumPy arrays from a ``.pkl`` file. A ``.safetensors`` file cannot hold
anything but tensors.

A pickle is a program. The unpickler here lets it call only stand-ins for the functions that rebuild
NumPy arrays; plain containers need no call at all. NumPy itself rebuilds a dtype from whatever
state the pickle holds. If the state of an object dtype denies that it holds objects, the array
takes bytes of the file as addresses, and the file can run code although it names only functions of
NumPy's. So the stand-ins check the state and use NumPy's own, unaltered dtype.
"""

import codecs
import contextlib
import json
import mmap
import os
import pickle
import pickletools
import re
import threading
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import safetensors
import torch

from ..utils.errors import UserError, reason_of

# torch.save stores tensors uncompressed, so a file that unpacks to more than this many times its
# size is no checkpoint.
MAX_PACKING = 4

_REMEDY = "copy or download it again from a source that you trust, or set MODEL.WEIGHTS to another"


# --- checkpoints


def read_pickle(path: str) -> dict[str, Any]:
    """Read a ``.pkl`` checkpoint of a model zoo.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    content = load_arrays(path, "the checkpoint", _REMEDY)
    if not isinstance(content, dict):
        raise UserError(f"the checkpoint {path} is a {type(content).__name__}, no dict; {_REMEDY}")
    return content


def read_torch(path: str, remedy: str = _REMEDY) -> Any:
    """Read a file written by :func:`torch.save`, with its tensors on the CPU.

    Args:
        path: the file.
        remedy: what the user can do about a bad file, for the message.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    try:
        if zipfile.is_zipfile(path):  # of PyTorch 1.6 or later
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_PACKING * os.path.getsize(path):
                raise UserError(
                    f"the checkpoint {path} would unpack to {unpacked} bytes from "
                    f"{os.path.getsize(path)}, which no checkpoint does; {remedy}"
                )
        with _LOADING, torch.serialization.safe_globals(_BESIDE_TENSORS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged file raises nearly any error
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            raise UserError(f"the checkpoint {path} is empty; {remedy}") from error
        raise UserError(f"the checkpoint {path} {_reason(error)}; {remedy}") from error


def read_safetensors(path: str) -> dict[str, Any]:
    """Read a ``.safetensors`` file.

    Returns:
        the tensors by name under ``model``, and beside them the zoo's hints ``__author__`` and
        ``matching_heuristics`` and the list ``class_names``, if the file's metadata has them.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            content: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
            metadata = file.metadata() or {}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        reason = reason_of(error)
        raise UserError(f"the checkpoint {path} cannot be read ({reason}); {_REMEDY}") from error
    if "__author__" in metadata:
        content["__author__"] = metadata["__author__"]
    if metadata.get("matching_heuristics") == "True":
        content["matching_heuristics"] = True
    with contextlib.suppress(KeyError, ValueError, RecursionError):  # metadata may be any text
        content["class_names"] = json.loads(metadata["class_names"])
    return content


def _reason(error: Exception) -> str:
    """Say what is wrong with the file, in half a sentence."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        name = re.search(r"(?:GLOBAL |[Uu]nsupported class |but got <class ')([\w.]+)", text)
        if name:
            return f"holds {name[1]}, and only tensors and plain containers belong there"
        # PyTorch surrounds what it has found with advice.
        advice = ("Weights only", "Check the documentation", "Please")
        parts = [part.strip() for part in re.split(r"\n\s*\n", text)]
        text = next((part for part in parts if part and not part.startswith(advice)), "its pickle")
    text = re.sub(r"^\[enforce fail at [^\]]*\]\s*\.\s*", "", text.strip())  # a line of its source
    reason = text.partition("\n")[0].partition(". ")[0][:200] or type(error).__name__
    if "weights_only" in reason:  # TorchScript or a tar, which PyTorch would advise to run
        reason = "it is of a form that only torch.load's unsafe mode takes, or damaged"
    return f"cannot be read ({reason})"


# --- pickles of arrays


_LONG = 4096  # bytes
# Opcodes that can fill the memory with a single number: the memo grows to the index they give.
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT"}

# Numbers, text of a fixed length and objects; no structures, whose fields may lie anywhere.
_CODE = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU]\d{1,6}|O8?")
_scalar = np.float64(0).__reduce__()[0]  # its module's name depends on NumPy's version


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
def _make_scalar(dtype: Any, raw: Any) -> np.generic:
    return _scalar(_real(dtype), raw)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, *order: Any) -> np.ndarray:
    """Stand in for NumPy's, of protocol 5: (order,) or, since NumPy 2.4, (order, axis_order)."""
    array = np.frombuffer(buffer, dtype=_real(dtype))
    if len(order) > 1 and order[0] == "K" and order[1] is not None:
        return array.reshape(shape).transpose(order[1])
    return array.reshape(shape, order=order[0])


def _no_bytes() -> bytes:
    """Stand in for ``bytes()``, which protocols 0 to 2 write for the content of an empty array;
    ``bytes(n)`` would make n zeros."""
    return b""


def _real(dtype: Any) -> np.dtype:
    if not isinstance(dtype, PickledDtype):
        raise pickle.UnpicklingError("it holds an array without a type")
    return dtype.dtype


class _Namespace:
    """A stand-in for ``argparse.Namespace`` that drops its contents.

    A pickle may set any attribute of a real one, even its class, and so turn it into an unchecked
    :class:`PickledDtype`.
    """

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Drop the state: nothing here reads the options of a training."""


# Stand-ins by the name in the pickle, with the module names of both NumPy 1 and NumPy 2.
_GLOBALS = {
    "numpy.dtype": PickledDtype,
    "numpy.ndarray": PickledArray,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    "_codecs.encode": codecs.encode,  # how protocol 2 writes an array's bytes
    "collections.OrderedDict": OrderedDict,
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy._core.multiarray._reconstruct": PickledArray,
    "numpy.core.multiarray.scalar": _make_scalar,
    "numpy._core.multiarray.scalar": _make_scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
# Beside the tensors, Detectron2's trainers save NumPy's numbers and arrays, and torchvision's save
# their options.
_BESIDE_TENSORS = [
    *((function, name) for name, function in _GLOBALS.items()),
    (_Namespace, "argparse.Namespace"),
]
# PyTorch has one set of allowed names for all threads, and a thread that is done takes its own out.
_LOADING = threading.Lock()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _GLOBALS:
            how = "; tensors belong in a .pth" if module.partition(".")[0] == "torch" else ""
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}, and only arrays belong there{how}"
            )
        return _GLOBALS[f"{module}.{name}"]


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
        reason = "too large" if isinstance(error, MemoryError) else reason_of(error)
        raise UserError(f"{what} {path} cannot be read ({reason}); {remedy}") from error


def _check_memo(path: str) -> None:
    """Refuse a memo index that no honest pickle has: Python allocates that many slots."""
    with open(path, "rb") as file, _Skimmed(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name in _MEMO_WRITES and argument > number:
                raise pickle.UnpicklingError("its memo is larger than the file")


class _Skimmed(mmap.mmap):
    """A file whose long parts, the arrays, are skipped and read as zeros, which cost nothing.

    Zeros are also valid text, which :mod:`pickletools` expects for Python 2's arrays.
    """

    def read(self, n: int = -1) -> bytes:
        if n < _LONG:
            return super().read(n)
        start = self.tell()
        self.seek(min(start + n, len(self)))
        return bytes(self.tell() - start)
