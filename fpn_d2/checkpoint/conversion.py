"""A checkpoint's weights in another file: only the model's, in a form that cannot hold code.

A checkpoint is here ``{"model": weights by name}`` and, where the names are another code base's,
the zoo's hints ``__author__`` and ``matching_heuristics`` beside it, with which it loads.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.files import replace_file, system_error
from .checkpointer import SafeCheckpointer, check_weights

__all__ = ["convert_checkpoint", "read_weights", "write_weights"]

_HINTS = ("__author__", "matching_heuristics")
# A tensor may repeat what is stored once; weights that grow by more than this are no weights.
_MAX_RATIO = 4


def convert_checkpoint(
    source: str,
    target: str,
    *,
    overwrite: bool = False,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write the weights of any checkpoint that this package reads to another file.

    Args:
        source: the checkpoint: ``.pth``, ``.pkl`` of either zoo, ``.pyth``, ``.safetensors``.
        target: the file to write, ``.safetensors`` or ``.pth``; whole or not at all.
        overwrite: whether it may be there already.
        change: what to make of the checkpoint in between, such as one with other names.

    Returns:
        what was written.

    Raises:
        UserError: where one of the files cannot be read or written.
    """
    if not target.endswith((".safetensors", ".pth")):
        raise UserError(f"{target} is neither .safetensors nor .pth; name one of these")
    if os.path.isdir(target):
        raise UserError(f"{target} is a folder; name a file to write")
    if os.path.lexists(target) and not overwrite:
        raise UserError(f"{target} is there already; name another, or add --force to replace it")
    checkpoint = read_weights(source)
    if change is not None:
        checkpoint = change(checkpoint)
    write_weights(checkpoint, target)
    return checkpoint


def read_weights(path: str) -> dict[str, Any]:
    """Read a checkpoint's weights, by the names that they have there.

    Args:
        path: the checkpoint, or its URL.

    Returns:
        the checkpoint; its weights are tensors on the CPU, each with a memory of its own.

    Raises:
        UserError: where it cannot be read, or holds anything else.
    """
    keeper = _Keeper()
    keeper.load(path)
    weights = {name: _tensor(path, name, value) for name, value in keeper.content["model"].items()}
    if not weights:
        raise UserError(f"the checkpoint {path} holds no weights; name another")
    size = sum(value.numel() * value.element_size() for value in weights.values())
    if size > _MAX_RATIO * keeper.file_size + 2**20:
        raise UserError(
            f"the checkpoint {path} would unfold to {size} bytes of weights from "
            f"{keeper.file_size}, which no checkpoint does; name another"
        )
    # Tied weights share their memory, which safetensors does not have.
    weights = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    return {"model": weights, **{k: keeper.content[k] for k in _HINTS if k in keeper.content}}


def write_weights(checkpoint: dict[str, Any], path: str) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        checkpoint: its weights are contiguous tensors.
        path: ``.safetensors``, where the hints become metadata, or ``.pth``.

    Raises:
        UserError: where it cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with replace_file(path, "wb") as file:
            if path.endswith(".safetensors"):
                hints = {key: str(checkpoint[key]) for key in _HINTS if key in checkpoint}
                file.write(to_safetensors(checkpoint["model"], {"format": "pt", **hints}))
            else:
                torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        cause = system_error(error)
        if cause is None:
            raise
        raise UserError(
            f"{path} could not be written ({cause.strerror or cause}); choose another place, or "
            "make room there"
        ) from error


class _Keeper(SafeCheckpointer):
    """A checkpointer that keeps what it would load."""

    def __init__(self) -> None:
        super().__init__(nn.Module())
        self.content: dict[str, Any] = {}
        self.file_size = 0  # in bytes

    def _load_file(self, filename: str) -> dict[str, Any]:
        self.file_size = os.path.getsize(filename)
        return super()._load_file(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        check_weights(self._path, checkpoint["model"])
        self.content = checkpoint


def _tensor(path: str, name: str, value: Tensor | np.ndarray) -> Tensor:
    """A weight as a tensor whose numbers are all there."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise UserError(
                f"the checkpoint {path} has {value.dtype} as its weight {name[:80]!r}, and only "
                "numbers can be converted; name another"
            )
        # Pickles may be of big-endian machines, or of arrays that are read-only.
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise UserError(
            f"the checkpoint {path} has a sparse, quantized or empty tensor as its weight "
            f"{name[:80]!r}, which cannot be converted; name another"
        )
    return value
