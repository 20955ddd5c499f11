"""Files that are complete whenever they exist, and JSON in them."""

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import time
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from .errors import UserError

_ABANDONED_SECONDS = 3600


def is_local(path: str | os.PathLike) -> bool:
    """Whether a path names an ordinary file, not a URL that Detectron2 fetches."""
    return "://" not in os.fspath(path)


def cache_folder() -> str:
    """Return the folder, by ``$XDG_CACHE_HOME``, for what this package can make again."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(os.path.expanduser(root), "fpn_d2")


def file_alike(path: str) -> str:
    """Say which file a path that does not exist may mean: one whose name differs only in case,
    slashes, URL escapes or Unicode form (macOS writes é as two characters), or the only one of its
    name one folder further down (as in CVAT's, Datumaro's and Ultralytics' images/train).

    Returns:
        the end of a sentence about the path; empty if there is no such file.
    """
    spelled = unquote(os.fspath(path).replace("\\", "/"))
    folder, name = os.path.split(spelled)
    parent = folder
    while folder and not os.path.isdir(folder):  # some exporters write a folder too many
        folder = os.path.dirname(folder)
    with contextlib.suppress(OSError):
        place = folder or ".", os.stat(folder or ".").st_mtime_ns
        found = _plain_names(*place).get(_plain(name))
        if found is None and folder == parent:
            below = [path for path in _within(*place) if os.path.isfile(os.path.join(path, name))]
            if len(below) == 1:
                shown = ascii(os.path.join(below[0], name))
                return f" (but {shown} does: if that is the one, give the name with its folder)"
        if found is not None:
            shown = ascii(os.path.join(folder, found))  # which tells the Unicode forms apart
            spare = os.path.relpath(parent or ".", folder or ".")
            alone = os.path.join(folder, spare, found) == os.fspath(path)  # all else is as there
            remedy = f"take {spare}/ out of it" if alone else "give the name as it is there"
            return f" (but {shown} does: {remedy})"
    return ""


@functools.lru_cache(maxsize=8)
def _plain_names(folder: str, mtime: int) -> dict[str, str]:
    return {_plain(name): name for name in os.listdir(folder)}


@functools.lru_cache(maxsize=8)
def _within(folder: str, mtime: int) -> list[str]:
    """The folders in a folder, unless they are too many to be those of splits."""
    found = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    return found if len(found) <= 20 else []


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def is_config_key(word: str) -> bool:
    """Whether a word is written like a config key, such as one given among files by mistake."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*", word) is not None


def check_targets(*paths: str | os.PathLike, overwrite: bool = False, option: str = "") -> None:
    """Refuse files that must not be written, before the work for them begins; delete beside the
    others what kills have left of the same files.

    Args:
        paths: the files.
        overwrite: whether files that exist may be replaced; folders never may.
        option: the option of the command line that names the files, for the message.

    Raises:
        UserError: if one of them is no file, or exists and may not be replaced.
    """
    for path in paths:
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder; name a file")
        # Such as /dev/null, or /dev/stdout, which is a link to a file where it is redirected.
        is_device = os.path.dirname(os.path.abspath(path)) in ("/dev", "/dev/fd")
        if os.path.exists(path) and (is_device or not os.path.isfile(path)):
            raise UserError(
                f"{path} is a device or a pipe, which a file would replace; name a file"
            )
    there = [os.fspath(path) for path in paths if os.path.lexists(path)]
    if there and not overwrite:
        more = f" and {len(there) - 1} more are" if there[1:] else " is"
        raise UserError(
            f"{there[0]}{more} there already; name another{option and f' {option}'}, or add "
            f"--force to replace {'them' if there[1:] else 'it'}"
        )
    names = {os.path.basename(path) for path in paths}
    for folder in {os.path.dirname(path) for path in paths}:
        remove_partial_files(folder, names)


def prepare_target(path: str | os.PathLike, overwrite: bool, option: str) -> None:
    """Make the folder of a file to write, before the work for it begins.

    Args:
        path, overwrite, option: see :func:`check_targets`.

    Raises:
        UserError: see :func:`check_targets`; and if the folder cannot be made.
    """
    check_targets(path, overwrite=overwrite, option=option)
    with explain_disk_errors(os.fspath(path), f"name another {option}"):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)


def unique_stems(paths: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Name each input so that no two inputs write the same file.

    ``a/x.jpg`` and ``b/x.jpg`` become ``x`` and ``x_2``. Names that differ only in case count as
    the same, because they are on many disks.

    Args:
        paths: the inputs.
        suffixes: the endings of an input's files, such as ``".png"`` and ``"_explain.png"``.
    """
    taken, stems, last = set(), [], {}
    for path in paths:
        base = os.path.splitext(os.path.basename(path))[0]
        number = last.get(base.casefold(), 1)  # thousands of folders may each have an image.png
        stem = base if number == 1 else f"{base}_{number}"
        while taken & {f"{stem}{suffix}".casefold() for suffix in suffixes}:
            number += 1
            stem = f"{base}_{number}"
        taken |= {f"{stem}{suffix}".casefold() for suffix in suffixes}
        stems.append(stem)
        last[base.casefold()] = number
    return stems


def partial_path(path: str | os.PathLike, ending: str = "") -> str:
    """Name the file that becomes ``path`` once it is complete; the name differs by process.

    Args:
        path: the file to write.
        ending: what the name must end with, where a writer chooses the format by it.
    """
    return f"{os.fspath(path)}.@{_machine()}.{os.getpid()}.partial{ending}"


def _machine() -> str:
    """Identify this machine or container by 8 hex digits; others may have the same host name."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")  # in which process ids are unique
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@contextlib.contextmanager
def replace_file(path: str | os.PathLike, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a file that replaces ``path`` once it is complete and on the disk.

    If a kill or an error comes before that, ``path`` stays as it was. Its folder must exist.

    Args:
        path: the file to write.
        mode, options: see :func:`open`; the mode is ``"w"`` or ``"wb"``.
    """
    path = os.fspath(path)
    partial = partial_path(path)
    try:
        with open(partial, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def remove_partial_files(folder: str | os.PathLike, names: Collection[str] = ()) -> None:
    """Delete the half-written files that :func:`replace_file` left in a folder when it was killed.

    Files of other processes that still run are left alone. Whether a process on another machine
    runs cannot be seen, so its files go once nothing has been written to them for an hour. The
    folder need not exist. With ``names``, only those of files of these names.
    """
    here = _machine()
    for path in map(os.fspath, Path(folder).glob("*.partial*")):  # hidden ones, too
        writer = re.search(r"\.(?:@([^/@]+)\.)?(\d+)\.partial(\.\w+)?$", path)
        if writer is None or (names and os.path.basename(path[: writer.start()]) not in names):
            continue
        with contextlib.suppress(OSError):
            if writer[1] in (None, here):
                is_left = int(writer[2]) == os.getpid() or not _is_running(int(writer[2]))
            else:
                is_left = time.time() - os.path.getmtime(path) > _ABANDONED_SECONDS
            if is_left:
                os.remove(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


@contextlib.contextmanager
def explain_disk_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn the system's errors while ``what`` is written into a :class:`UserError` with a remedy.

    Errors of other causes pass through. A writer such as torch's raises a RuntimeError of its own
    after the system's error.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise UserError(
            f"{what} could not be written ({cause.strerror or cause}); {remedy}"
        ) from error


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a file as JSON, completely or not at all; NaN is refused."""
    with replace_file(path, encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def read_json(path: str) -> Any:
    """Read a JSON file; raise a :class:`UserError` if it is not JSON."""
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it and start again") from error
