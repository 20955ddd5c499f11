"""The files of checkpoints, read without running what is in them.

PyTorch's restricted unpickler takes tensors and plain containers from a ``.pth`` file, and
:func:`fpn_d2.checkpoint.pickles.load_arrays` takes NumPy arrays from a ``.pkl`` file. A
``.safetensors`` file cannot hold anything but tensors.
"""

import contextlib
import json
import os
import pickle
import re
import zipfile
from typing import Any

import safetensors
import torch

from ..utils.errors import UserError
from .pickles import NUMPY_GLOBALS, load_arrays

# torch.save stores tensors as they are, so a file that holds more than this many times its size is
# no checkpoint of anybody's.
MAX_PACKING = 4

_REMEDY = "copy or download it again from a source that you trust, or set MODEL.WEIGHTS to another"
# Detectron2's trainers save numbers and arrays of NumPy beside the tensors.
_NUMPY = [(function, name) for name, function in NUMPY_GLOBALS.items()]


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
    """Read a file of :func:`torch.save`, with its tensors on the CPU.

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
        with torch.serialization.safe_globals(_NUMPY):
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
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint {path} cannot be read ({reason}); {_REMEDY}") from error
    if "__author__" in metadata:
        content["__author__"] = metadata["__author__"]
    if metadata.get("matching_heuristics") == "True":
        content["matching_heuristics"] = True
    with contextlib.suppress(KeyError, ValueError, RecursionError):  # metadata hold any text
        content["class_names"] = json.loads(metadata["class_names"])
    return content


def _reason(error: Exception) -> str:
    """What is wrong with the file, in half a sentence."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        name = re.search(r"(?:GLOBAL |[Uu]nsupported class |but got <class ')([\w.]+)", text)
        if name:
            return f"holds {name[1]}, and only tensors and plain containers belong there"
        # PyTorch surrounds what it has found with advice.
        advice = ("Weights only", "Check the documentation", "Please")
        parts = [part.strip() for part in re.split(r"\n\s*\n", text)]
        text = next((part for part in parts if part and not part.startswith(advice)), "its pickle")
    reason = text.strip().partition("\n")[0].partition(". ")[0][:200] or type(error).__name__
    if "weights_only" in reason:  # TorchScript or a tar, which PyTorch would advise to run
        reason = "it is of a form that only torch.load's unsafe mode takes, or damaged"
    return f"cannot be read ({reason})"
