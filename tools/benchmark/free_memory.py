"""How much memory new processes can take."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch

_SPARE_GIB = 1.0  # for the rest of the system
# Of control groups: the files with the limit and with the memory used, and the key in memory.stat
# of the cache that would be given up.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def available_gib(device: str, root: str = "/") -> float:
    """Return the memory that new processes can take without harm to others, in GiB.

    It is the GPU's, or the least that the machine and this process's control groups (the limits of
    a container, a cluster job or a service) have free, less a GiB; infinity where the system does
    not tell.

    Args:
        device: "cpu" or "cuda".
        root: the folder of ``proc`` and ``sys``.
    """
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**30
    sizes = [math.inf]
    with contextlib.suppress(OSError, KeyError):
        sizes.append(_numbers(Path(root, "proc/meminfo"))["MemAvailable:"] / 2**20)
    for folder, (limit, used, cache) in _control_groups(Path(root)):
        with contextlib.suppress(OSError, KeyError, ValueError):  # "max" where there is no limit
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            sizes.append((free + _numbers(folder / "memory.stat")[cache]) / 2**30)
    return min(sizes) - _SPARE_GIB


def _control_groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folders of this process's control groups and of their parents, with file names.

    A container sees its own group as the top, and may be told a path that only its host has.
    """
    mounts = root / "sys/fs/cgroup"
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers:  # version 2 has one tree for all
            top, names = mounts, _VERSION_2
        elif "memory" in controllers.split(","):
            top, names = mounts / "memory", _VERSION_1
        else:
            continue
        group = top / path.strip("/")
        yield from ((folder, names) for folder in (group, *group.parents))


def _numbers(path: Path) -> dict[str, int]:
    """Read the first word of each line of a file, and the number after it."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines}
