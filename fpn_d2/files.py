"""Writing a file so that it is whole whenever it is there."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["replace_file", "write_json"]


@contextlib.contextmanager
def replace_file(path: str | os.PathLike, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a file that takes the place of ``path`` once it is complete and on the disk.

    A kill or an error before that leaves what was there.

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


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` as JSON, whole or not at all; NaN is refused.

    Args:
        path: the file.
        content: what :func:`json.dump` takes.
    """
    with replace_file(path, encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")
