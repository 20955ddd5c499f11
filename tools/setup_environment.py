"""Installs what fpn_d2 misses into the Python that runs this file; what works is left alone.

    python tools/setup_environment.py          torch and torchvision, Detectron2, this package
    python tools/setup_environment.py pytest   one development tool (pytest, ruff, hypothesis)

``make setup``, ``make test`` and ``make lint`` call it. Standard library only: it runs before
anything is installed. pip's own output stands as it is; each failure ends in one sentence.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if sys.version_info < (3, 10):  # noqa: UP036  (before anything that an older Python cannot read)
    sys.exit("setup: fpn_d2 needs Python 3.10 or newer: activate an environment with one")

from setup_detectron2 import SetupError, Source, compiler_environment, find_source, say

ROOT = Path(__file__).resolve().parent.parent

TORCH_PAIR = ("torch==2.11.0", "torchvision==0.26.0")
BUILD_TOOLS = ("setuptools<82", "wheel")  # Detectron2's build; 82 dropped pkg_resources
DEV_TOOLS = {"pytest": "pytest>=8", "ruff": "ruff==0.17.5", "hypothesis": "hypothesis>=6"}


class Module(NamedTuple):
    """What one look at a module showed."""

    version: str | None = None  # None if it does not import
    error: str | None = None  # why not
    absent: bool = False  # there is no such module at all
    origin: str | None = None  # its file; fpn_d2: the folder it is installed editable from
    compiled_error: str | None = None  # its compiled part is there and does not load
    installed_at: float = 0.0  # fpn_d2 only, in seconds since the epoch


# For a process of its own: a broken torch may crash, and what one process imported hides what was
# installed since. One JSON line for each module, so that a crash is blamed on the right one.
PROBE = """
import importlib, json, os, sys
from importlib import metadata, util

def report(name, parts=(), compiled=None):
    found = {}
    try:
        spec = util.find_spec(name)
        found["origin"] = spec and spec.origin
        for part in (name, *parts):
            importlib.import_module(part)
        found["version"] = str(getattr(sys.modules[name], "__version__", "unknown"))
    except BaseException as error:
        found["absent"] = isinstance(error, ModuleNotFoundError) and error.name == name
        found["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return show(name, found)
    try:
        if compiled and util.find_spec(compiled):
            importlib.import_module(compiled)
    except BaseException as error:
        found["compiled_error"] = " ".join(str(error).split())[:300]
    show(name, found)

def show(name, found):
    print("\\n" + json.dumps([name, found]), flush=True)

for name in ("setuptools", "wheel", "fpn_d2"):
    found = {}
    try:
        distribution = metadata.distribution(name)
        found["version"] = distribution.version
        url = json.loads(distribution.read_text("direct_url.json") or "{}")
        if url.get("dir_info", {}).get("editable"):
            found["origin"] = url["url"]
            found["installed_at"] = os.stat(distribution._path).st_mtime
    except Exception:
        pass
    show(name, found)
report("torch")
report("torchvision")
report("detectron2", ("detectron2.layers", "detectron2.modeling"), compiled="detectron2._C")
"""


def look(python: str = sys.executable) -> dict[str, Module]:
    """Tries the imports that matter in a fresh `python`, from an empty folder."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [python, "-c", PROBE],
            cwd=empty,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith('["'):
            name, module = json.loads(line)
            found[name] = Module(**module)
    crash = Module(error=f"importing it ends Python with status {done.returncode}")
    names = ("setuptools", "wheel", "fpn_d2", "torch", "torchvision", "detectron2")
    return {name: found.get(name, crash) for name in names}


def package_is_current(package: Module, root: Path = ROOT) -> bool:
    """Whether fpn_d2 is installed editable from `root`, since setup.py last changed."""
    return (
        editable_folder(package) == os.path.realpath(root)
        and package.version == package_version(root)
        and package.installed_at >= (root / "setup.py").stat().st_mtime
    )


def editable_folder(package: Module) -> str | None:
    if not package.origin:
        return None
    path = urllib.parse.urlparse(package.origin).path
    return os.path.realpath(urllib.request.url2pathname(path))


def package_version(root: Path = ROOT) -> str:
    text = (root / "fpn_d2" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version starts with: (81, 0) of "81.0.post1"."""
    return tuple(int(number) for number in re.match(r"\d+(\.\d+)*", version).group().split("."))


def check_pip() -> None:
    """Raises SetupError where this Python cannot install anything."""
    if importlib.util.find_spec("pip") is None:
        raise SetupError(
            f"this Python has no pip: run `{sys.executable} -m ensurepip --upgrade`, then again"
        )
    marker = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    in_venv = sys.prefix != sys.base_prefix
    if marker.exists() and not in_venv and not os.environ.get("PIP_BREAK_SYSTEM_PACKAGES"):
        raise SetupError(
            "this Python belongs to the operating system, which forbids pip to change it: run "
            "`python3 -m venv .venv && . .venv/bin/activate`, then again"
        )


def run_pip(*arguments: str, failure: str, env: dict | None = None) -> None:
    """Runs pip, its output on the terminal; raises SetupError(`failure`) if it fails."""
    check_pip()
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    # A host that asks for a name and a password must fail, not wait.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **(env or {})}
    if subprocess.run(command, stdin=subprocess.DEVNULL, env=environment).returncode:
        raise SetupError(failure)


def install_torch(found: dict[str, Module], pip: Callable, look: Callable) -> dict[str, Module]:
    """Installs the tested pair; returns what is there afterwards."""
    pair = " and ".join(TORCH_PAIR)
    if found["torch"].version:
        say(f"torch {found['torch'].version} has no torchvision that imports: {pair} replace it")
    say(f"installing {pair} (a large download)")
    failure = (
        f"pip could not install {pair}, for the reason above: put it right, or install a torch and "
        "torchvision that fit this machine (https://pytorch.org/get-started), then run again"
    )
    pip("install", *TORCH_PAIR, failure=failure)
    now = look()
    if now["torchvision"].error:  # the right versions were there already, but not in working order
        pip("install", "--force-reinstall", "--no-deps", *TORCH_PAIR, failure=failure)
        now = look()
    if now["torchvision"].error:
        raise SetupError(
            f"{pair} are installed but torchvision still fails to import "
            f"({now['torchvision'].error}): start from a fresh environment"
        )
    return now


def install_detectron2(found: dict[str, Module], pip: Callable, named: str) -> None:
    """Builds a wheel aside and installs it, so that a failed build changes nothing."""
    absent = found["detectron2"].absent
    if not absent:
        say(f"Detectron2 is here but does not import ({found['detectron2'].error}): replacing it")
    with tempfile.TemporaryDirectory(prefix="fpn_d2_setup_") as folder:
        source = find_source(named, Path(folder))
        is_wheel = source.target.endswith(".whl") and os.path.exists(source.target)
        wheel = source.target if is_wheel else build_wheel(source, found, pip, Path(folder))
        failure = (
            f"pip could not install Detectron2 from {source.label}, for the reason above: put it "
            "right, or name another with `make setup DETECTRON2=...`"
        )
        if not absent:  # pip keeps an installed Detectron2 of the same version, broken or not
            pip("install", "--force-reinstall", "--no-deps", wheel, failure=failure)
        pip("install", wheel, failure=failure)


def build_wheel(source: Source, found: dict[str, Module], pip: Callable, work: Path) -> str:
    """Builds `source` with the torch that is installed, and returns the wheel's path."""
    env = compiler_environment() if source.compiles else {}
    setuptools = found["setuptools"].version
    if not setuptools or release(setuptools) >= (82,) or not found["wheel"].version:
        # Beside the environment, whose own setuptools may be there for a reason.
        tools = str(work / "tools")
        failure = "pip could not fetch setuptools and wheel: check the network, then run again"
        pip("install", "--quiet", "--target", tools, *BUILD_TOOLS, failure=failure)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (tools, os.environ.get("PYTHONPATH"))))
    say(f"building Detectron2 from {source.label} (some minutes)")
    # No isolation: its setup.py imports torch. No cache: pip keeps built wheels by address, and
    # would hand out one that was compiled against another torch.
    options = ("--no-deps", "--no-build-isolation", "--use-pep517", "--no-cache-dir")
    failure = (
        f"Detectron2 could not be built from {source.label}, for the reason above: put it right, "
        "or name a wheel that fits this torch with `make setup DETECTRON2=...`"
    )
    wheels = work / "wheels"
    pip("wheel", *options, "--wheel-dir", str(wheels), source.target, failure=failure, env=env)
    return str(next(wheels.glob("*.whl")))


def install_package(found: dict[str, Module], pip: Callable) -> None:
    """Installs this folder, editable."""
    before = editable_folder(found["fpn_d2"])
    moved = f" (was {before})" if before not in (None, str(ROOT)) else ""
    say(f"installing fpn_d2, editable, from {ROOT}{moved}")
    setuptools = found["setuptools"].version
    # With build tools at hand nothing is fetched; without, pip fetches them to a place of its own.
    at_hand = setuptools and release(setuptools) >= (64,) and found["wheel"].version
    isolation = ("--no-build-isolation",) if at_hand else ()
    failure = "pip could not install fpn_d2, for the reason above: put it right, then run again"
    pip("install", "--quiet", *isolation, "--editable", str(ROOT), failure=failure)


def set_up(named: str, pip: Callable = run_pip, look: Callable = look) -> str:
    """Installs what is missing and returns the line of versions.

    Args:
        named: what to install Detectron2 from, as :func:`find_source` takes it.
        pip: as :func:`run_pip`.
        look: as the function of that name.

    Raises:
        SetupError: with one sentence.
    """
    found = look()
    old_torch = found["torch"].version
    if found["torchvision"].error:
        found = install_torch(found, pip, look)
    compiled_error = found["detectron2"].compiled_error
    if compiled_error and found["torch"].version != old_torch:  # it fitted the torch just replaced
        found["detectron2"] = Module(error=compiled_error)
    elif compiled_error:
        say(
            f"Detectron2's compiled part does not load ({compiled_error}), which fpn_d2 does "
            "without: `pip uninstall detectron2`, then `make setup`, builds it again"
        )
    if found["detectron2"].error:
        install_detectron2(found, pip, named)
        found = look()
        if found["detectron2"].error:
            raise SetupError(
                f"Detectron2 was installed but does not import from {found['detectron2'].origin} "
                f"({found['detectron2'].error}): start from a fresh environment, or name another "
                "with `make setup DETECTRON2=...`"
            )
    if not package_is_current(found["fpn_d2"]):
        install_package(found, pip)
    versions = {"python": sys.version.split()[0]}
    versions.update((name, found[name].version) for name in ("torch", "torchvision", "detectron2"))
    versions["fpn_d2"] = package_version()
    return " | ".join(f"{name} {version}" for name, version in versions.items())


def install_tool(name: str, pip: Callable = run_pip) -> None:
    """Installs a development tool where it is missing."""
    if importlib.util.find_spec(name) is None:
        say(f"installing {DEV_TOOLS[name]}")
        failure = f"pip could not install {DEV_TOOLS[name]}: check the network, then run again"
        pip("install", "--quiet", DEV_TOOLS[name], failure=failure)


def main(arguments: list[str]) -> int:
    unknown = [name for name in arguments if name not in DEV_TOOLS]
    try:
        if unknown:
            raise SetupError(f"unknown tool {unknown[0]}: choose from {', '.join(DEV_TOOLS)}")
        for name in arguments:
            install_tool(name)
        if not arguments:
            print(set_up(os.environ.get("DETECTRON2", "")))
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
