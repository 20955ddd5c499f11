"""Installs what fpn_d2 lacks into the Python that runs this file, and leaves alone what works.

    python tools/setup_environment.py          torch, torchvision, OpenCV, Detectron2, this package
    python tools/setup_environment.py pytest   a development tool of setup.py's extra `dev`

Two environment variables decide what is taken:

    DETECTRON2   a wheel, an archive, a source folder, a git repository (a bare one too) or a pip
                 requirement; unset: the pinned commit
    TORCH        `cpu`, `cuda` or pip's own arguments, such as "torch==2.12.0 torchvision"; unset:
                 the CPU build on Linux without an NVIDIA driver, else PyPI's

Standard library only, since it runs before anything is installed. pip's output is shown as it is;
each failure ends in one sentence.
"""

import argparse
import ctypes.util
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036  (before anything that an older Python cannot read)
    sys.exit("setup: fpn_d2 needs Python 3.10 or newer; activate an environment with one")

ROOT = Path(__file__).resolve().parent.parent
TORCH_PAIR = ("torch==2.11.0", "torchvision==0.26.0")
LEAST_TORCH = (2, 7)  # as in fpn_d2/__init__.py
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DETECTRON2_URL = "https://github.com/facebookresearch/detectron2.git"
DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
DEV_TOOLS = {
    "pytest": "pytest>=8",
    "xdist": "pytest-xdist>=3",
    "ruff": "ruff==0.17.5",
    "hypothesis": "hypothesis>=6",
    "submitit": "submitit>=1.5",
    "openvino": "openvino>=2026.4",
    "nncf": "nncf>=3.4",
    "onnx": "onnx>=1.13",
}
NAME_ANOTHER = "name a wheel, a folder or a git repository with `make setup DETECTRON2=...`"

# Detectron2's own setup.py, told to compile nothing.
PURE_WHEEL = """
import runpy, setuptools, sys
setup = setuptools.setup
setuptools.setup = lambda **options: setup(**{**options, "ext_modules": [], "cmdclass": {}})
sys.argv = ["setup.py", "-q", "bdist_wheel", "-d", sys.argv[1]]
runpy.run_path("setup.py", run_name="__main__")
"""


class SetupError(Exception):
    """A failure; its message is one sentence that says what to do."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def run(*command: str, failure: str, **options) -> str:
    """Run a program that may not ask for input; raise SetupError with ``failure`` if it fails."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **options.pop("env", {})}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, env=env, **options)
    except FileNotFoundError:
        raise SetupError(f"{command[0]} is missing; install it, or {NAME_ANOTHER}") from None
    if done.returncode:
        raise SetupError(failure)
    return done.stdout or ""


def pip(*arguments: str, failure: str, **options) -> None:
    """Run pip with its output on the terminal; see :func:`run`."""
    command = (sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check")
    run(*command, *arguments, failure=failure, **options)


def look(names: str) -> tuple[str | None, str]:
    """Import modules ("torch" or "torch, cv2") in a fresh Python, since a broken one may crash, in
    an empty folder; return their versions and "", or None and why they do not import."""
    parts = ", detectron2.layers, detectron2.modeling" if "detectron2" in names else ""
    versions = (f"getattr({name}, '__version__', 'unknown')" for name in names.split(", "))
    code = f"import {names}{parts}\nprint()\nprint({', '.join(versions)})"
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=empty, capture_output=True, text=True
        )
    if done.returncode == 0:
        return done.stdout.split("\n")[-2], ""
    lines = [line for line in done.stderr.split("\n") if line]
    return None, lines[-1] if lines else f"Python ends with status {done.returncode}"


def find_source(named: str, work: Path) -> str:
    """Turn ``DETECTRON2`` into something that pip takes, before anything large is downloaded.

    Raise SetupError if there is nothing of that name. ``work`` is a temporary folder.
    """
    named = named.strip() or DETECTRON2_URL
    path = Path(named.removeprefix("git+").removeprefix("file://")).expanduser()
    if path.is_file():
        return str(path.resolve())
    if (path / "setup.py").is_file():
        # A copy, since a build writes into its folder and reuses the objects of an earlier build.
        ignore = shutil.ignore_patterns(".git", "build", "*.egg-info", "*.so", "__pycache__")
        copy = shutil.copytree(path, work / "detectron2", symlinks=True, ignore=ignore)
        for folder, _, _ in os.walk(copy):
            os.chmod(folder, 0o755)  # the source may be read-only
        return str(copy)
    repository = next((p for p in (path, path / ".git") if (p / "HEAD").is_file()), None)
    if repository is None and path.exists():
        raise SetupError(f"{path} holds neither a setup.py nor a git repository; {NAME_ANOTHER}")
    # git's own addresses, with pip's @commit, and addresses of repositories' web pages
    is_git = re.match(r"git\+|ssh://|git://|.*\.git$|https?://(?!.*\.(whl|zip|t?gz)$)", named)
    url, _, commit = re.match(r"(?:git\+)?(.*?)(@([^@/:]+))?$", named).groups()
    if is_git:
        if repository is None:
            repository = work / "clone.git"
            say(f"fetching Detectron2 from {url}")
            failure = f"{url} cannot be fetched; check the network, or {NAME_ANOTHER}"
            run("git", "clone", "--quiet", "--bare", url, str(repository), failure=failure)
    elif repository is None:
        if re.search(r"[/\\]|\.whl$", named) and "://" not in named:
            raise SetupError(f"there is no file or folder {named}; {NAME_ANOTHER}")
        return named  # a requirement, or the address of a wheel
    # `git archive` also reads another user's repository, and one without its `config`.
    git = ("git", f"--git-dir={repository}")
    failure = f"git cannot read {named}; repair the repository, or {NAME_ANOTHER}"
    if not (is_git and commit):
        commit = DETECTRON2_COMMIT
        try:
            run(*git, "cat-file", "-e", commit, failure=failure, stderr=subprocess.DEVNULL)
        except SetupError:
            say(f"{named} lacks the tested commit {commit[:7]}; taking its HEAD")
            commit = "HEAD"
    archive = str(work / "detectron2.zip")
    run(*git, "archive", "--prefix=detectron2/", "-o", archive, commit, failure=failure)
    return archive


def install_torch(wanted: str) -> None:
    """Install torch and torchvision as ``TORCH`` says; see the module's docstring."""
    failure = (
        "pip could not install torch and torchvision, for the reason above; put it right, or name "
        'what fits this machine, such as `make setup TORCH="torch torchvision"`'
    )
    if wanted not in ("", "cpu", "cuda"):
        return pip("install", *shlex.split(wanted), failure=failure)
    driver = shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia/version")
    say(f"installing {' and '.join(TORCH_PAIR)} (a large download)")
    if wanted == "cpu" or (not wanted and sys.platform == "linux" and not driver):
        try:  # once: the index may be out of reach
            index = ("--index-url", CPU_INDEX, "--retries", "1", "--timeout", "20")
            return pip("install", *index, *TORCH_PAIR, failure=failure)
        except SetupError:
            if wanted:
                raise
            say("the CPU build cannot be had here; taking the default one")
    return pip("install", *TORCH_PAIR, failure=failure)


def check_torch(version: str | None) -> None:
    """Refuse a torch that imports and is too old for fpn_d2."""
    numbers = tuple(map(int, re.findall(r"\d+", version or "")[:2]))
    if numbers and numbers < LEAST_TORCH:
        raise SetupError(
            f"torch {version} is older than {'.'.join(map(str, LEAST_TORCH))}, which fpn_d2 needs; "
            "run `make setup` in a fresh environment"
        )


def compiler() -> str | None:
    """Return the value of ``CXX`` that compiles extensions here, or None; on Windows torch looks
    for MSVC itself."""
    named = os.environ.get("CXX", "")
    names = shlex.split(named)[:1] or ["c++", "g++", "clang++"]
    found = next(filter(shutil.which, names), None)
    if sys.platform == "win32":
        return named
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    return (named or found) if headers and found else None


def install_detectron2(source: str, work: Path) -> None:
    """Build what :func:`find_source` returned against the torch that is installed, and install it.

    ``work`` is a temporary folder.
    """
    failure = (
        f"Detectron2 cannot be installed, for the reason above; put it right, or {NAME_ANOTHER}"
    )
    if source.endswith(".whl"):
        return pip("install", source, failure=failure)
    # Outside the environment, whose setuptools may be newer: Detectron2 needs pkg_resources.
    tools = str(work / "tools")
    pip("install", "--quiet", "--target", tools, "setuptools<82", "wheel", failure=failure)
    path = os.pathsep.join(filter(None, (tools, os.environ.get("PYTHONPATH"))))
    cxx = compiler()
    options = {"failure": failure, "env": {"PYTHONPATH": path, **({"CXX": cxx} if cxx else {})}}
    if os.path.exists(source) and cxx is None:
        say("no C++ compiler, or no Python.h: Detectron2 comes without its compiled part")
        if os.path.isfile(source):
            shutil.unpack_archive(source, work / "unpacked")
            source = str(next((work / "unpacked").iterdir()))
        run(sys.executable, "-c", PURE_WHEEL, str(work), cwd=source, **options)
        source = str(next(work.glob("*.whl")))
    # No isolation: its setup.py imports torch. No cache: it may hold a build for another torch.
    pip("install", "--no-build-isolation", "--no-cache-dir", source, **options)


def is_current() -> bool:
    """Return whether fpn_d2 is installed editable from this folder, since setup.py last changed."""
    try:
        distribution = metadata.distribution("fpn_d2")
    except metadata.PackageNotFoundError:
        return False
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    is_editable = origin.get("dir_info", {}).get("editable", False)
    record = Path(distribution.locate_file(f"fpn_d2-{distribution.version}.dist-info"))
    changed = (ROOT / "setup.py").stat().st_mtime
    is_here = is_editable and origin["url"] == ROOT.as_uri()
    return is_here and record.exists() and record.stat().st_mtime >= changed


def set_up(work: Path) -> str:
    """Install what is missing, using a temporary folder; return the line of versions."""
    names = ("torch", "torchvision", "cv2", "detectron2")
    # One Python for all where nothing is missing, the usual case: each takes seconds to start.
    together = (look(", ".join((*names, "detectron2._C")))[0] or "").split()
    complete = len(together) == len(names) + 1
    if complete:
        found = {name: (version, "") for name, version in zip(names, together[:-1], strict=True)}
    else:
        found = {name: look(name) for name in names}
    missing = [name for name, (version, _) in found.items() if version is None]
    if "detectron2" in missing:
        source = find_source(os.environ.get("DETECTRON2", ""), work)
    if {"torch", "torchvision"} & set(missing):
        if "torch" not in missing:
            say(f"torch {found['torch'][0]} has no torchvision that imports; both are replaced")
        install_torch(os.environ.get("TORCH", ""))
        found["torch"] = look("torch")
    check_torch(found["torch"][0])
    if "cv2" in missing:
        has_screen = sys.platform != "linux" or ctypes.util.find_library("GL")
        package = "opencv-python" if has_screen else "opencv-python-headless"
        pip("install", package, failure=f"pip could not install {package}; check the network")
    if "detectron2" in missing:
        install_detectron2(source, work)
    if not is_current():
        say(f"installing fpn_d2, editable, from {ROOT}")
        failure = "pip could not install fpn_d2, for the reason above; put it right, then run again"
        pip("install", "--quiet", "--editable", str(ROOT), failure=failure)
    for name in found if missing else ():
        found[name] = look(name)
        if found[name][0] is None:
            raise SetupError(
                f"{name} is installed and does not import ({found[name][1]}); take it out with "
                "`pip uninstall`, or start from a fresh environment"
            )
    parts = [f"{name} {version}" for name, (version, _) in found.items()]
    if not complete and look("detectron2, torch, detectron2._C")[0] is None:
        parts[-1] += " (without its compiled part)"
    importlib.invalidate_caches()
    parts = [f"python {sys.version.split()[0]}", *parts, f"fpn_d2 {metadata.version('fpn_d2')}"]
    return " | ".join(parts)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", nargs="*", help=f"one of {', '.join(DEV_TOOLS)}")
    names = parser.parse_args(arguments).tool
    try:
        for name in names:
            if name not in DEV_TOOLS:
                raise SetupError(f"there is no tool {name}; choose from {', '.join(DEV_TOOLS)}")
            if importlib.util.find_spec(name) is None:
                failure = f"pip could not install {DEV_TOOLS[name]}; check the network"
                pip("install", "--quiet", DEV_TOOLS[name], failure=failure)
        if not names:
            with tempfile.TemporaryDirectory(prefix="fpn_d2_setup_") as work:
                print(set_up(Path(work)))
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
