"""Write only the model weights of a checkpoint to another file; ``.safetensors`` holds no code.

Here, a checkpoint is ``{"model": weights by name}``, with the class names beside the weights if it
holds them. If the weights have another code base's names, the zoo's hints ``__author__`` and
``matching_heuristics``, which loading needs, are beside them too.
"""

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.files import check_targets, explain_disk_errors, replace_file
from .checkpointer import CLASS_NAMES, SafeCheckpointer, names_in
from .safe_load import MAX_PACKING

_HINTS = ("__author__", "matching_heuristics")


def convert_checkpoint(
    source: str,
    target: str,
    *,
    overwrite: bool = False,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write the weights of any checkpoint that this package reads to another file.

    Args:
        source: the checkpoint: ``.pth``, ``.pkl`` of either zoo, ``.pyth`` or ``.safetensors``.
        target: the file to write, ``.safetensors`` or ``.pth``; it is written whole or not at all.
        overwrite: whether ``target`` may exist and be replaced.
        change: turns the checkpoint that was read into the one to write; None leaves it as it is.

    Returns:
        the checkpoint that was written.

    Raises:
        UserError: if one of the files cannot be read or written.
    """
    if not target.endswith((".safetensors", ".pth")):
        raise UserError(f"{target} is neither .safetensors nor .pth; name one of these")
    check_targets(target, overwrite=overwrite)
    checkpoint = read_weights(source)
    if change is not None:
        checkpoint = change(checkpoint)
    if target.endswith(".safetensors"):
        _check_dtypes(source, checkpoint["model"])
    with explain_disk_errors(target, "choose another place, or make room there"):
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        with replace_file(target, "wb") as file:
            if target.endswith(".safetensors"):
                hints = {key: str(checkpoint[key]) for key in _HINTS if key in checkpoint}
                if CLASS_NAMES in checkpoint:
                    hints[CLASS_NAMES] = json.dumps(checkpoint[CLASS_NAMES])
                file.write(to_safetensors(checkpoint["model"], {"format": "pt", **hints}))
            else:
                torch.save(checkpoint, file)
    return checkpoint


def read_weights(path: str) -> dict[str, Any]:
    """Read the checkpoint in a file, or at a URL, with its weights, hints and class names.

    Returns:
        the checkpoint; its weights are contiguous tensors on the CPU, none of which share memory.

    Raises:
        UserError: if it cannot be read, or holds anything else.
    """
    if not path:
        raise UserError("the name of the checkpoint is empty; name a file, or a URL")
    reader = _Reader(nn.Module())
    reader.load(path)
    content = reader.content
    weights = {name: _tensor(path, name, value) for name, value in content["model"].items()}
    if not weights:
        raise UserError(f"the checkpoint {path} holds no weights; name another")
    # A tensor may repeat what is stored once, which no weights do to this extent.
    size = sum(value.numel() * value.element_size() for value in weights.values())
    if size > MAX_PACKING * reader.file_size + 2**20:
        raise UserError(
            f"the checkpoint {path} would unfold to {size} bytes of weights from "
            f"{reader.file_size}, which no checkpoint does; name another"
        )
    # Tied weights share their memory, which safetensors cannot express.
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    beside = {key: content[key] for key in _HINTS if key in content}
    if names_in(content):
        beside[CLASS_NAMES] = list(names_in(content))
    return {"model": weights, **beside}


class _Reader(SafeCheckpointer):
    """A checkpointer that keeps a file's content and size instead of loading it into a model."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        self.file_size = os.path.getsize(filename)
        return super()._load_file(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        self.content = checkpoint


def _tensor(path: str, name: str, value: Tensor | np.ndarray) -> Tensor:
    """Return a weight as a tensor; refuse one that does not hold each of its numbers."""
    if isinstance(value, np.ndarray):
        with contextlib.suppress(TypeError):  # from torch, which has no long double
            if value.dtype.kind in "biufc":
                # Pickles may come from big-endian machines, or hold read-only arrays.
                return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        raise UserError(
            f"the checkpoint {path} has {value.dtype} as its weight {name[:80]!r}, and only "
            "torch's numbers can be converted; name another"
        )
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise UserError(
            f"the checkpoint {path} has a sparse, quantized or empty tensor as its weight "
            f"{name[:80]!r}, which cannot be converted; name another"
        )
    return value


def _check_dtypes(path: str, weights: dict[str, Tensor]) -> None:
    """Refuse weights of dtypes that .safetensors does not have, such as complex128."""
    for name, value in weights.items():
        try:
            to_safetensors({name: value.new_empty(0)})
        except (KeyError, SafetensorError) as error:
            raise UserError(
                f"the checkpoint {path} has {value.dtype} as its weight {name[:80]!r}, which "
                ".safetensors cannot hold; write a .pth"
            ) from error
