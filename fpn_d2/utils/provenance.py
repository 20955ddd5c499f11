"""Where a number comes from: the machine, the versions and the commit."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import detectron2
import torch
import torchvision

from .devices import cpu_info


def describe_machine() -> dict[str, Any]:
    """Describe this machine without naming it.

    Returns:
        ``{processor, instructions, cores, memory_gib, gpus}``, on Windows without ``memory_gib``,
        and where there is a GPU ``tf32``, whether float32 convolutions may be computed in it.
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    is_overridden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
    tf32 = {"tf32": torch.backends.cudnn.allow_tf32 and not is_overridden} if gpus else {}
    memory = {}
    if hasattr(os, "sysconf"):  # Windows does not have it
        pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = {"memory_gib": round(pages / 2**30)}
    instructions = {
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "avx512": torch.cpu._is_avx512_supported(),
        "avx2": torch.cpu._is_avx2_supported(),
    }
    return {
        "processor": _processor(),
        "instructions": [name for name, there in instructions.items() if there],
        "cores": os.cpu_count(),
        **memory,
        "gpus": gpus,
        **tf32,
    }


def _processor() -> str:
    name, family = cpu_info("model name"), cpu_info("cpu family")
    if name and family:  # a virtual machine's name, such as AMD EPYC, may not tell the generation
        return f"{name} (family {family}, model {cpu_info('model')})"
    return name or platform.processor() or platform.machine()


def describe_versions() -> dict[str, str]:
    """Return the versions that decide a result, by package."""
    # This package is imported already, and need not be installed.
    package = __name__.partition(".")[0]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
        package: sys.modules[package].__version__,
    }


def installed_versions(*names: str) -> dict[str, str]:
    """Return the versions of these packages, as far as installed, without importing any."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_commit(folder: str | os.PathLike = Path(__file__).parent) -> str:
    """Return the short hash of a folder's commit, with a ``+`` if files have changed.

    It is ``"unknown"`` if there is no repository or no git. The folder is this package's by
    default.
    """
    try:
        if not _git(folder, "ls-files", "."):  # installed inside somebody else's repository
            return "unknown"
        commit = _git(folder, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def code_hash(folder: str | os.PathLike) -> str:
    """Return a short hash of what decides a trained model: the configs and the model's code.

    Args:
        folder: the folder that holds ``configs``; if it has none, the package's are taken. Their
            ``tables.yaml`` does not count.
    """
    package = Path(__file__).parents[1]
    patterns = "layers/**/*.py", "modeling/**/*.py", "structures.py"
    paths = [path for pattern in patterns for path in package.glob(pattern)]
    files = {path.relative_to(package).as_posix(): path for path in paths}
    configs = Path(folder, "configs")
    if not configs.is_dir():  # an installed package has its own
        configs = package / "configs"
    files |= {f"configs/{p.relative_to(configs).as_posix()}": p for p in configs.rglob("*.yaml")}
    files.pop("configs/tables.yaml", None)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return digest.hexdigest()[:10]


def _git(folder: str | os.PathLike, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", os.fspath(folder), *words], check=True, capture_output=True, text=True
    ).stdout.strip()
