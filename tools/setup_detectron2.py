"""What ``make setup`` builds Detectron2 from: half of setup_environment.py, which runs it.

Detectron2 is on no package index, and its build imports torch. :func:`find_source` turns what
``DETECTRON2=...`` names into something that pip can build; :func:`compiler_environment` says
beforehand whether it can be compiled here. Standard library only.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

DETECTRON2_URL = "https://github.com/facebookresearch/detectron2.git"
DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"


class SetupError(Exception):
    """A failure; its message is one sentence that says what to do."""


class Source(NamedTuple):
    """What pip is given for Detectron2."""

    target: str  # requirement, wheel, archive or folder
    label: str  # for people
    compiles: bool  # certainly needs a compiler


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def find_source(named: str, work: Path) -> Source:
    """Turns ``DETECTRON2=...`` into something that pip can build or install.

    Args:
        named: a pip requirement, a wheel, an archive, a source folder, or a git repository with or
            without a work tree, local or remote; empty for Detectron2's own repository.
        work: a temporary folder for what must be fetched or copied.

    Raises:
        SetupError: if it is none of these.
    """
    named = named.strip()
    if not named:
        return clone(DETECTRON2_URL, work)
    if named.startswith("file://"):
        named = urllib.request.url2pathname(urllib.parse.urlparse(named).path)
    path = Path(named).expanduser()
    if path.is_file():
        return Source(str(path.resolve()), str(path), compiles=path.suffix != ".whl")
    if path.is_dir():
        return from_folder(path.resolve(), work)
    if is_git_url(named):
        return clone(named, work)
    address = "://" in named or "@" in named
    if re.match(r"[./~\\]", named) or (not address and re.search(r"[/\\]|\.whl$", named)):
        raise SetupError(
            f"there is no file or folder {named}: check DETECTRON2=... (a relative path starts at "
            f"{Path.cwd()})"
        )
    return Source(named, named, compiles="git+" in named)


def is_git_url(named: str) -> bool:
    """Whether `named` is a remote git repository, not a pip requirement or a file to download."""
    if named.startswith(("ssh://", "git://")) or re.match(r"[\w.-]+@[\w.-]+:(?!//)", named):
        return True
    archive = urllib.parse.urlparse(named).path.endswith((".whl", ".zip", ".tar.gz", ".tgz"))
    return named.startswith(("http://", "https://")) and not archive


def from_folder(folder: Path, work: Path) -> Source:
    """A source folder, or a git repository without a work tree."""
    if (folder / "setup.py").is_file() or (folder / "pyproject.toml").is_file():
        # A copy: the build writes into its folder, which may be read-only, and would take up
        # objects left there by a build against another torch.
        ignore = shutil.ignore_patterns(".git", "build", "*.egg-info", "*.so", "__pycache__")
        copy = work / "detectron2"
        shutil.copytree(folder, copy, symlinks=True, ignore=ignore)
        for directory, _, _ in os.walk(copy):
            os.chmod(directory, 0o755)  # a copy of a read-only folder is read-only
        return Source(str(copy), str(folder), compiles=True)
    if is_git_directory(folder):
        return export_commit(folder, str(folder), work)
    if is_git_directory(folder / ".git") or (folder / ".git").is_file():
        return export_commit(folder / ".git", str(folder), work)
    raise SetupError(
        f"{folder} is neither a source folder (no setup.py) nor a git repository: let DETECTRON2 "
        "name a wheel, Detectron2's source folder, a git repository or a pip requirement"
    )


def is_git_directory(folder: Path) -> bool:
    """Whether `folder` is a bare repository or a ``.git``, even one without its ``config``."""
    return (folder / "HEAD").is_file() and all((folder / d).is_dir() for d in ("objects", "refs"))


def clone(url: str, work: Path) -> Source:
    """Fetches a remote repository; see :func:`export_commit` for what is taken from it."""
    say(f"fetching Detectron2 from {url}")
    if git("clone", "--quiet", "--bare", url, str(work / "clone.git")).returncode:
        raise SetupError(
            f"Detectron2 could not be fetched from {url}: check the network, or name a wheel, a "
            "source folder or a git repository at hand with `make setup DETECTRON2=...`"
        )
    return export_commit(work / "clone.git", url, work)


def export_commit(git_dir: Path, label: str, work: Path) -> Source:
    """Packs the pinned commit, or HEAD where the repository lacks it, for pip.

    An archive and not a clone: naming the git directory outright also works for a repository that
    belongs to another user, as shared mirrors do, and for one that has no ``config``.
    """
    repository = f"--git-dir={git_dir}"
    commit = DETECTRON2_COMMIT
    if git(repository, "rev-parse", "--verify", "--quiet", commit + "^{commit}").returncode:
        commit = git(repository, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").stdout.strip()
        if not commit:
            raise SetupError(f"{label} has no commit: let DETECTRON2 name a filled git repository")
        say(f"{label} lacks the tested {DETECTRON2_COMMIT[:7]}: taking its HEAD, {commit[:7]}")
    archive = work / "detectron2.zip"
    options = ("--format=zip", "--prefix=detectron2/", "-o", str(archive))
    if git(repository, "archive", *options, commit).returncode:
        raise SetupError(
            f"git could not read commit {commit[:7]} of {label}: repair the repository or name "
            "another with `make setup DETECTRON2=...`"
        )
    return Source(str(archive), f"commit {commit[:7]} of {label}", compiles=True)


def git(*arguments: str) -> subprocess.CompletedProcess:
    """Runs git, which may not ask for anything, with its error output on the terminal."""
    if shutil.which("git") is None:
        raise SetupError(
            "git is needed to fetch Detectron2: install git, or name a wheel or a source folder "
            "with `make setup DETECTRON2=...`"
        )
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    return subprocess.run(
        ["git", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def compiler_environment() -> dict:
    """Environment variables that the build needs; SetupError if nothing can be compiled here."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise SetupError(
            "Detectron2 is compiled and needs Python's headers (Python.h): install them "
            "(`apt install python3-dev`), or name a wheel with `make setup DETECTRON2=...`"
        )
    if sys.platform == "win32":  # torch's own build looks for MSVC and says so
        return {}
    named = shlex.split(os.environ.get("CXX", ""))[:1]
    compiler = next(filter(shutil.which, named or ("c++", "g++", "clang++")), None)
    if compiler is None:
        missing = f"CXX={named[0]} is not found" if named else "none is found"
        raise SetupError(
            f"Detectron2 needs a C++ compiler and {missing}: install one (`apt install g++`, "
            "`conda install gxx`), or name a wheel with `make setup DETECTRON2=...`"
        )
    return {} if named or compiler == "c++" else {"CXX": compiler}
