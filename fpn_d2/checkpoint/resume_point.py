"""The checkpoint that a training resumes from: the newest whole one in its folder.

``last_checkpoint`` is only a hint. It is out of date if the machine stopped between a checkpoint
and its tag; the checkpoint that it names may be damaged, by a disk that lost blocks; and in a
folder from elsewhere it may say anything.
"""

import logging
import math
import os
import re
import zipfile
from collections.abc import Collection

import torch

from ..utils.errors import UserError, reason_of
from .safe_load import MAX_PACKING, read_torch

_TAG = "last_checkpoint"
_MAX_NAME = 255  # of a file, in bytes

logger = logging.getLogger(__name__)


def checkpoints_in(folder: str) -> list[str]:
    """List the sorted paths of the ``model_*.pth`` files in a folder, which need not exist."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if re.fullmatch(r"model_.*\.pth", name)]
    return sorted(path for path in paths if os.path.isfile(path))


def files_to_resume(folder: str) -> list[str]:
    """List a training's ``last_checkpoint``, if it exists, and then its checkpoints."""
    tag = os.path.join(folder, _TAG)
    tags = [tag] if os.path.lexists(tag) else []
    return tags + checkpoints_in(folder)


def tagged_checkpoint(folder: str) -> str:
    """Find the checkpoint that a folder's ``last_checkpoint`` names; "" without such a file.

    Raises:
        UserError: if ``last_checkpoint`` holds anything but the name of a file in its folder.
    """
    tag = os.path.join(folder, _TAG)
    if not os.path.lexists(tag):
        return ""
    remedy = "write the name of a checkpoint of that folder into it, or delete it"
    if not os.path.isfile(tag):
        raise UserError(f"{tag} is no file; {remedy}")
    try:
        with open(tag, "rb") as file:
            name = file.read(_MAX_NAME + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{tag} cannot be read ({error}); {remedy}") from error
    is_name = name.isprintable() and len(os.fsencode(name)) <= _MAX_NAME
    if not is_name or re.search(r"[/\\]", name) or name in (".", ".."):
        raise UserError(f"{tag} holds {name[:80]!r}, which names no file of its folder; {remedy}")
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise UserError(f"{tag} names {path}, which does not exist; {remedy}")
    return path


def newest_whole(folder: str, states: Collection[str] = ()) -> str:
    """Find the last checkpoint of the folder's last training, skipping damaged ones and those with
    NaN or infinite weights.

    An earlier training in the same folder may have gone further, and a user may go back by writing
    an earlier name into ``last_checkpoint``. Checkpoints that are further than the tagged one and
    older than that file are tried last. The log names each skipped one, and why it was skipped.

    Args:
        folder: an OUTPUT_DIR.
        states: the keys that a checkpoint must hold beside its model, such as ``"trainer"``.

    Returns:
        the path of the checkpoint.

    Raises:
        UserError: if no checkpoint is whole.
    """
    faults: list[str] = []
    try:
        tagged = tagged_checkpoint(folder)
    except UserError as error:
        tagged = ""
        faults.append(str(error))
    for path in _newest_first(tagged, checkpoints_in(folder)):
        try:
            _check_whole(path, states)
        except UserError as error:
            faults.append(str(error))
        else:
            for fault in faults:
                logger.warning("Skipped: %s", fault)
            return path
    more = f" (and {len(faults) - 1} more of its files)" if len(faults) > 1 else ""
    raise UserError(
        f"no checkpoint in {folder} is whole, so training cannot go on from it: {faults[0]}{more}; "
        f"put a whole one there, or delete {_TAG} and model_*.pth to start from MODEL.WEIGHTS"
    )


def last_finite_checkpoint(folder: str) -> str | None:
    """Return the checkpoint that :func:`newest_whole` finds in a folder; None if there is none."""
    try:
        return newest_whole(folder) if checkpoints_in(folder) else None
    except UserError:
        return None


def _newest_first(tagged: str, paths: list[str]) -> list[str]:
    iterations = {path: _iteration(path) for path in {tagged, *paths} if path}

    def rank(path: str) -> tuple[bool, float, bool]:
        further = tagged and iterations[path] > iterations[tagged]
        tag = os.path.join(os.path.dirname(tagged), _TAG)
        is_earlier = further and os.stat(path).st_mtime_ns < os.stat(tag).st_mtime_ns
        return not is_earlier, iterations[path], path == tagged

    return sorted(sorted(iterations), key=rank, reverse=True)


def _iteration(path: str) -> float:
    """Read the iteration from the name, or else from the file. An unreadable file counts as the
    newest, so that the log reports it."""
    number = re.fullmatch(r"model_(\d+)\.pth", os.path.basename(path))
    if number:
        return int(number[1])
    try:
        content = read_torch(path)
    except UserError:
        return math.inf
    iteration = content.get("iteration") if isinstance(content, dict) else None
    return iteration if isinstance(iteration, int) else -1


def _check_whole(path: str, states: Collection[str]) -> None:
    remedy = "copy it again, or delete it"
    content = read_torch(path, remedy)
    if not isinstance(content, dict):
        raise UserError(f"the checkpoint {path} is a {type(content).__name__}; {remedy}")
    lacking = [key for key in ("model", *states) if key not in content]
    if lacking:
        raise UserError(f"the checkpoint {path} has no {' and no '.join(lacking)}; {remedy}")
    weights = content["model"]
    most = MAX_PACKING * os.path.getsize(path) + 2**20  # bytes in a weight
    for name, value in weights.items() if isinstance(weights, dict) else ():
        finite = _is_finite(value, most) if isinstance(value, torch.Tensor) else True
        if finite is None:
            raise UserError(
                f"the checkpoint {path} has no plain tensor as its weight {str(name)[:80]!r}; "
                f"{remedy}"
            )
        if not finite:
            raise UserError(f"the checkpoint {path} has NaN or infinity in {name}; delete it")
    if not zipfile.is_zipfile(path):
        return
    # torch.load does not verify the checksums that torch.save has written.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged header raises nearly any error
        reason = reason_of(error)
        raise UserError(f"the checkpoint {path} is damaged ({reason}); {remedy}") from error
    if damaged:
        raise UserError(f"the checkpoint {path} is damaged in its part {damaged}; {remedy}")


def _is_finite(value: torch.Tensor, most: int) -> bool | None:
    """Return whether a tensor is free of NaN and infinity; None if no weight is of its kind, or if
    it would unfold to more than ``most`` bytes."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return None
    try:
        return None if value.nbytes > most else bool(value.isfinite().all())
    except RuntimeError:  # for dtypes that torch only stores, such as 8-bit floats
        return None
