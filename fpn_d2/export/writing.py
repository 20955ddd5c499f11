"""An exported model on the disk, whole or not at all."""

import os

from ..utils.errors import UserError
from ..utils.files import replace_file
from .exporting import Exported

__all__ = ["check_output", "write_export"]


def check_output(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Refuse an output before the work for it begins.

    Args:
        path: the file to write.
        overwrite: whether it may be there already.

    Raises:
        UserError: where it is there, or cannot be.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UserError(f"the folder {folder} of {path} does not exist; create it first")
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name a file")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} is there already; name another, or add --force to replace it")


def write_export(exported: Exported, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Write an exported model.

    Args:
        exported: from :func:`fpn_d2.export.export_model`.
        path: the file.
        overwrite: whether it may be there already.

    Raises:
        UserError: where it is there, or cannot be written.
    """
    check_output(path, overwrite)
    try:
        with replace_file(path, "wb") as file:
            file.write(exported.content)
    except OSError as error:
        raise UserError(f"{os.fspath(path)} cannot be written ({error.strerror})") from error
