"""Files that are complete whenever they exist, and JSON in them."""

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterator
from typing import IO, Any

from .errors import UserError

__all__ = ["read_json", "remove_partial_files", "replace_file", "system_error", "write_json"]


@contextlib.contextmanager
def replace_file(path: str | os.PathLike, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a file that replaces ``path`` once it is complete and on the disk.

    If a kill or an error comes before that, ``path`` stays as it was.

    Args:
        path: the file to write; its folder exists.
        mode: ``"w"`` or ``"wb"``.
        options: see :func:`open`.

    Yields:
        the open file.
    """
    path = os.fspath(path)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Delete the half-written files that :func:`replace_file` left in a folder when it was killed.

    Files of processes that still run are left alone. Nothing reads any of them.

    Args:
        folder: the folder; it need not exist.
    """
    for path in glob.glob(os.path.join(glob.escape(os.fspath(folder)), "*.partial")):
        number = re.search(r"\.(\d+)\.partial$", path)
        if number and (int(number[1]) == os.getpid() or not _is_running(int(number[1]))):
            with contextlib.suppress(OSError):
                os.remove(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def system_error(error: BaseException | None) -> OSError | None:
    """Find the system's error behind one that a writer, such as torch's, raises in its own words.

    Args:
        error: the error that was raised.

    Returns:
        the operating system's error among its causes, or None.
    """
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a file as JSON, completely or not at all; NaN is refused.

    Args:
        path: the file.
        content: anything that :func:`json.dump` takes.
    """
    with replace_file(path, encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is no longer JSON.
    """
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it and start again") from error
