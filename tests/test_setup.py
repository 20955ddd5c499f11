"""setup.py, `make setup` and the other targets, with stub modules, a stub pip and a stub Python.

Nothing here touches the network or the environment that the tests run in.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setup_detectron2
import setup_environment
from setup_detectron2 import SetupError, find_source
from setup_environment import Module

ROOT = Path(setup_environment.__file__).resolve().parent.parent
CURRENT = Module(
    version=setup_environment.package_version(), origin=ROOT.as_uri(), installed_at=float("inf")
)
COMPLETE = {
    "setuptools": Module("81.0.0"),
    "wheel": Module("0.45"),
    "fpn_d2": CURRENT,
    "torch": Module("2.11.0"),
    "torchvision": Module("0.26.0"),
    "detectron2": Module("0.6"),
}
ABSENT = Module(error="ModuleNotFoundError: No module named 'it'", absent=True)

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
needs_make = pytest.mark.skipif(
    shutil.which("make") is None or os.name == "nt", reason="needs make and a shell"
)


class StubPip:
    """Stands for `run_pip`: keeps the commands, and fails at the one that contains `fails_at`."""

    def __init__(self, fails_at=None):
        self.commands, self.fails_at = [], fails_at

    def __call__(self, *arguments, failure, env=None):
        self.commands.append(arguments)
        if self.fails_at in arguments:
            raise SetupError(failure)
        if arguments[0] == "wheel":
            folder = Path(arguments[arguments.index("--wheel-dir") + 1])
            folder.mkdir()
            (folder / "detectron2-0.6-py3-none-any.whl").touch()


def looks(*changes):
    """Stands for `look`: the complete environment, with the next of `changes` at each call."""
    sequence = iter(changes)
    return lambda: {**COMPLETE, **next(sequence)}


@pytest.fixture
def detectron2_folder(tmp_path):
    folder = tmp_path / "source" / "detectron2"
    folder.mkdir(parents=True)
    (folder / "setup.py").write_text("print('not run')\n")
    (folder / "build").mkdir()
    return folder


@pytest.fixture
def repository(tmp_path, detectron2_folder):
    """A git repository with two commits: its path, its first commit and its HEAD."""

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(
            command, cwd=detectron2_folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    git("add", "setup.py")
    git("commit", "--quiet", "-m", "one")
    first = git("rev-parse", "HEAD")
    git("commit", "--quiet", "--allow-empty", "-m", "two")
    return detectron2_folder, first, git("rev-parse", "HEAD")


def assert_one_sentence(message: str) -> None:
    """One line, and no full stop that begins a second sentence."""
    assert "\n" not in message
    assert ". " not in message.replace("DETECTRON2=...", "")
    assert len(message) < 500


# setup.py


def test_setup_py_imports_no_torch_and_requires_no_detectron2():
    code = (
        "import json, sys, setuptools\n"
        "from distutils.core import run_setup\n"
        "it = run_setup('setup.py', stop_after='init')\n"
        "heavy = [m for m in ('torch', 'detectron2', 'fpn_d2') if m in sys.modules]\n"
        "print(json.dumps([heavy, it.get_name(), it.get_version(), it.install_requires,"
        " it.extras_require, it.packages]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    heavy, name, version, requires, extras, packages = json.loads(done.stdout)
    assert heavy == []
    assert (name, version) == ("fpn_d2", setup_environment.package_version())
    assert not [r for r in requires if r.startswith(("torch", "detectron2"))]
    assert extras["dev"] == list(setup_environment.DEV_TOOLS.values())
    assert "fpn_d2" in packages
    assert all(package.split(".")[0] == "fpn_d2" for package in packages)


def test_the_pinned_commit_is_the_one_that_the_package_names():
    text = (ROOT / "fpn_d2" / "__init__.py").read_text()
    assert setup_detectron2.DETECTRON2_COMMIT in text


# What is there


@pytest.fixture
def stub_modules(tmp_path, monkeypatch):
    """Stub torch, torchvision and detectron2 that hide the real ones; returns their folder."""
    for name in ("torch", "torchvision", "detectron2", "detectron2/layers", "detectron2/modeling"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('__version__ = "1.2"\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_look_reads_versions(stub_modules):
    found = setup_environment.look()
    assert [found[name].version for name in ("torch", "torchvision", "detectron2")] == ["1.2"] * 3
    assert found["detectron2"].compiled_error is None


def test_look_tells_absent_from_broken(stub_modules):
    missing = "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')"
    (stub_modules / "torchvision" / "__init__.py").write_text(missing)
    (stub_modules / "detectron2" / "layers" / "__init__.py").write_text("import torchvision")
    found = setup_environment.look()
    assert found["torchvision"].absent
    assert found["torchvision"].version is None
    assert not found["detectron2"].absent
    assert "No module named 'torchvision'" in found["detectron2"].error


def test_look_survives_a_crash_and_noise(stub_modules):
    (stub_modules / "torch" / "__init__.py").write_text("print('noise', end='')\n__version__ = '2'")
    (stub_modules / "torchvision" / "__init__.py").write_text("import os; os._exit(139)")
    found = setup_environment.look()
    assert found["torch"].version == "2"
    assert found["torchvision"].error == "importing it ends Python with status 139"


def test_look_reports_a_compiled_part_that_does_not_load(stub_modules):
    (stub_modules / "detectron2" / "_C.py").write_text("raise ImportError('undefined symbol')")
    found = setup_environment.look()["detectron2"]
    assert (found.version, found.compiled_error) == ("1.2", "undefined symbol")


def test_the_package_is_current_only_from_this_folder_and_this_setup_py(tmp_path):
    current = setup_environment.package_is_current
    assert current(CURRENT)
    assert not current(Module())
    assert not current(CURRENT._replace(origin=None))  # not editable
    assert not current(CURRENT._replace(origin=tmp_path.as_uri()))
    assert not current(CURRENT._replace(version="0.0.1"))
    assert not current(CURRENT._replace(installed_at=0.0))


# What is installed


def test_nothing_is_installed_where_everything_works():
    pip = StubPip()
    line = setup_environment.set_up("", pip, looks({}))
    assert pip.commands == []
    assert line.startswith("python 3.")
    assert line.endswith(
        f" | torch 2.11.0 | torchvision 0.26.0 | detectron2 0.6 | fpn_d2 {CURRENT.version}"
    )


def test_other_versions_that_work_are_kept():
    pip = StubPip()
    other = {"torch": Module("2.4.1+cpu"), "torchvision": Module("0.19.1+cpu")}
    assert "torch 2.4.1+cpu" in setup_environment.set_up("", pip, looks(other))
    assert pip.commands == []


def test_torch_comes_first_and_detectron2_is_looked_at_again():
    """Detectron2 fails to import without torch: no reason to install it."""
    pip = StubPip()
    bare = {"torch": ABSENT, "torchvision": ABSENT, "detectron2": Module(error="no torch")}
    setup_environment.set_up("", pip, looks(bare, {}))
    assert pip.commands == [("install", "torch==2.11.0", "torchvision==0.26.0")]


def test_a_torch_without_torchvision_is_replaced_with_a_word(capsys):
    setup_environment.set_up("", StubPip(), looks({"torchvision": ABSENT}, {}))
    assert "torch 2.11.0 has no torchvision that imports" in capsys.readouterr().out


def test_a_broken_torchvision_of_the_right_version_is_forced():
    broken = {"torchvision": Module(error="RuntimeError: operator torchvision::nms")}
    pip = StubPip()
    setup_environment.set_up("", pip, looks(broken, broken, {}))
    assert "--force-reinstall" in pip.commands[1]
    with pytest.raises(SetupError, match="fresh environment") as raised:
        setup_environment.set_up("", StubPip(), looks(broken, broken, broken))
    assert_one_sentence(str(raised.value))


def test_detectron2_is_built_without_isolation_then_installed(detectron2_folder):
    pip = StubPip()
    setup_environment.set_up(str(detectron2_folder), pip, looks({"detectron2": ABSENT}, {}))
    build, install = pip.commands
    assert build[0] == "wheel"
    assert {"--no-build-isolation", "--no-deps", "--no-cache-dir"} <= set(build)
    assert install[0] == "install"
    assert install[-1].endswith(".whl")
    assert "--force-reinstall" not in install


def test_a_broken_detectron2_is_replaced_although_its_version_is_the_same(detectron2_folder):
    pip = StubPip()
    broken = {"detectron2": Module(error="ImportError: undefined symbol")}
    setup_environment.set_up(str(detectron2_folder), pip, looks(broken, {}))
    assert "--force-reinstall" in pip.commands[1]
    assert "--no-deps" in pip.commands[1]  # or pip would reinstall what Detectron2 requires too


def test_a_wheel_is_installed_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # and needs no compiler
    wheel = tmp_path / "detectron2-0.6-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    pip = StubPip()
    setup_environment.set_up(str(wheel), pip, looks({"detectron2": ABSENT}, {}))
    assert pip.commands == [("install", str(wheel))]


def test_a_compiled_part_is_rebuilt_only_if_its_torch_was_replaced(detectron2_folder, capsys):
    stale = {"detectron2": Module("0.6", compiled_error="undefined symbol")}
    pip = StubPip()
    setup_environment.set_up(str(detectron2_folder), pip, looks(stale))
    assert pip.commands == []
    assert "does not load (undefined symbol)" in capsys.readouterr().out
    old = {"torch": Module("2.13.0"), "torchvision": ABSENT}
    setup_environment.set_up(str(detectron2_folder), pip, looks({**stale, **old}, stale, {}))
    assert [command[0] for command in pip.commands] == ["install", "wheel", "install", "install"]


@pytest.mark.parametrize("change", [{"setuptools": Module("82.0")}, {"wheel": Module()}])
def test_build_tools_go_beside_the_environment(change, detectron2_folder):
    pip = StubPip()
    missing = {"detectron2": ABSENT, **change}
    setup_environment.set_up(str(detectron2_folder), pip, looks(missing, change))
    assert "--target" in pip.commands[0]
    assert "setuptools<82" in pip.commands[0]


@pytest.mark.parametrize(
    "setuptools, wheel, isolated",
    [("81.0.0", "0.45", False), ("63.4", "0.45", True), ("81.0.0", None, True), (None, None, True)],
)
def test_the_package_is_built_offline_where_it_can_be(setuptools, wheel, isolated):
    pip = StubPip()
    tools = {"setuptools": Module(setuptools), "wheel": Module(wheel), "fpn_d2": Module()}
    setup_environment.set_up("", pip, looks(tools))
    (command,) = pip.commands
    assert command[-2:] == ("--editable", str(ROOT))
    assert ("--no-build-isolation" not in command) == isolated


def test_tools_are_installed_only_where_missing(monkeypatch):
    pip = StubPip()
    setup_environment.install_tool("pytest", pip)
    assert pip.commands == []
    monkeypatch.setattr(setup_environment.importlib.util, "find_spec", lambda name: None)
    setup_environment.install_tool("ruff", pip)
    assert pip.commands == [("install", "--quiet", setup_environment.DEV_TOOLS["ruff"])]


# Where Detectron2 comes from


def test_a_source_folder_is_copied_without_its_builds(detectron2_folder, tmp_path):
    detectron2_folder.chmod(0o555)
    source = find_source(str(detectron2_folder), tmp_path)
    detectron2_folder.chmod(0o755)
    assert source.compiles
    assert Path(source.target).stat().st_mode & 0o200  # the build can write there
    assert Path(source.target) != detectron2_folder
    assert os.listdir(source.target) == ["setup.py"]


@needs_git
@pytest.mark.parametrize("kind", ["bare", "without config", "without work tree", "url"])
@pytest.mark.parametrize("has_pin", [True, False])
def test_a_git_repository_gives_the_pin_or_its_head(
    kind, has_pin, repository, tmp_path, monkeypatch, capfd
):
    path, first, head = repository
    monkeypatch.setattr(setup_detectron2, "DETECTRON2_COMMIT", first if has_pin else "0" * 40)
    there = tmp_path / "there"
    how = "--no-checkout" if kind == "without work tree" else "--bare"
    subprocess.run(["git", "clone", "--quiet", how, str(path), str(there)], check=True)
    if kind == "without config":
        (there / "config").unlink()
    work = tmp_path / "work"
    work.mkdir()
    if kind == "url":
        source = setup_detectron2.clone(there.as_uri(), work)
    else:
        source = find_source(str(there), work)
    assert f"commit {(first if has_pin else head)[:7]}" in source.label
    shutil.unpack_archive(source.target, tmp_path / "unpacked")
    assert os.listdir(tmp_path / "unpacked" / "detectron2") == ["setup.py"]
    output = capfd.readouterr()
    assert ("lacks the tested 0000000" in output.out) != has_pin
    assert output.err == ""


@pytest.mark.parametrize(
    "named, is_git",
    [
        ("git@host.org:mirrors/detectron2.git", True),
        ("ssh://host/detectron2", True),
        ("https://host/mirrors/detectron2.git", True),
        ("https://host/detectron2", True),
        ("https://host/detectron2-0.6-cp311-cp311-linux_x86_64.whl", False),
        ("https://host/detectron2.tar.gz#sha256=0", False),
        ("git+https://host/detectron2.git@abc", False),
        ("detectron2 @ git+ssh://git@host/detectron2.git", False),
        ("detectron2@https://host/d.whl", False),
        ("detectron2==0.6", False),
    ],
)
def test_a_remote_repository_is_told_from_a_requirement(named, is_git, tmp_path):
    assert setup_detectron2.is_git_url(named) == is_git
    if not is_git:
        assert find_source(named, tmp_path).target == named


@needs_git
def test_a_detectron2_that_is_nothing_gets_one_sentence(tmp_path, monkeypatch, capfd):
    empty = tmp_path / "empty"
    empty.mkdir()
    unborn = tmp_path / "unborn.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(unborn)], check=True)
    monkeypatch.setattr(setup_detectron2, "DETECTRON2_URL", (tmp_path / "none").as_uri())
    for named, expected in [
        ("/no/such/folder", "no file or folder /no/such/folder"),
        ("./detectron2-0.6.whl", "no file or folder"),
        ("mirrors/detectron2", "no file or folder"),
        (str(empty), "neither a source folder"),
        (str(unborn), "has no commit"),
        ("", "could not be fetched"),
    ]:
        with pytest.raises(SetupError, match=expected) as raised:
            find_source(named, tmp_path)
        assert_one_sentence(str(raised.value))


# Failures


@pytest.mark.parametrize(
    "missing, fails_at, expected",
    [
        ({"torch": ABSENT, "torchvision": ABSENT}, "torch==2.11.0", "could not install torch==2"),
        ({"detectron2": ABSENT}, "wheel", "could not be built from"),
        ({"detectron2": ABSENT}, "install", "could not install Detectron2 from"),
        ({"detectron2": ABSENT, "wheel": Module()}, "--target", "could not fetch setuptools"),
        ({"fpn_d2": Module()}, "--editable", "could not install fpn_d2"),
    ],
)
def test_a_failing_pip_gets_one_sentence(missing, fails_at, expected, detectron2_folder):
    with pytest.raises(SetupError, match=expected) as raised:
        setup_environment.set_up(str(detectron2_folder), StubPip(fails_at), looks(missing))
    assert_one_sentence(str(raised.value))


def test_a_detectron2_that_still_does_not_import_gets_one_sentence(detectron2_folder):
    broken = {"detectron2": Module(error="ImportError: x", origin="/elsewhere/detectron2")}
    with pytest.raises(SetupError, match="does not import from /elsewhere") as raised:
        setup_environment.set_up(str(detectron2_folder), StubPip(), looks(broken, broken))
    assert_one_sentence(str(raised.value))


def test_a_missing_compiler_gets_one_sentence_and_nothing_is_installed(
    detectron2_folder, monkeypatch
):
    pip = StubPip()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match=r"needs a C\+\+ compiler and none is found") as raised:
        setup_environment.set_up(str(detectron2_folder), pip, looks({"detectron2": ABSENT}))
    assert_one_sentence(str(raised.value))
    assert pip.commands == []
    monkeypatch.setenv("CXX", "/no/such/g++ -O2")
    with pytest.raises(SetupError, match=r"CXX=/no/such/g\+\+ is not found"):
        setup_detectron2.compiler_environment()


def test_another_compiler_is_named_to_the_build(tmp_path, monkeypatch):
    compiler = tmp_path / "clang++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup_detectron2.compiler_environment() == {"CXX": "clang++"}


def test_missing_python_headers_get_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_detectron2.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SetupError, match=r"Python\.h") as raised:
        setup_detectron2.compiler_environment()
    assert_one_sentence(str(raised.value))


def test_missing_git_gets_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match="git is needed") as raised:
        find_source("", tmp_path)
    assert_one_sentence(str(raised.value))


def test_a_python_that_cannot_install_gets_one_sentence(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(setup_environment.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SetupError, match="has no pip: run .*ensurepip") as raised:
            setup_environment.run_pip("install", "it", failure="not reached")
        assert_one_sentence(str(raised.value))
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.delenv("PIP_BREAK_SYSTEM_PACKAGES", raising=False)
    monkeypatch.setattr(setup_environment.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(SetupError, match="belongs to the operating system") as raised:
        setup_environment.check_pip()
    assert_one_sentence(str(raised.value).replace("&& . .venv", "&& .venv"))


def test_an_old_python_gets_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer") as raised:
        runpy.run_path(setup_environment.__file__)
    assert_one_sentence(str(raised.value))


def test_run_pip_raises_its_sentence_with_pips_output_above_it(capfd):
    with pytest.raises(SetupError, match="^do this$"):
        setup_environment.run_pip("no-such-command", failure="do this")
    assert "unknown command" in capfd.readouterr().err


def test_main_prints_the_sentence_and_fails(capsys):
    assert setup_environment.main(["black"]) == 1
    assert (
        capsys.readouterr().err
        == "setup: unknown tool black: choose from pytest, ruff, hypothesis\n"
    )


# Makefile and .ci/run


def environment_without_make(**added):
    """Without what `make test`, if it runs these tests, hands down to another make."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return {**kept, **added}


def run_make(folder, *arguments, **environment):
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=environment_without_make(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def stub_tree(tmp_path):
    """The Makefile beside a Python that writes its arguments to `calls`, pytest ending with 5."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "tests").mkdir()
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" >> calls\ncase "$*" in "-m pytest"*) exit ${STATUS-5};; esac\n'
    )
    python.chmod(0o755)
    return tmp_path


@needs_make
def test_make_without_a_target_lists_the_targets():
    text = run_make(ROOT).stdout
    for target in ("setup", "demo", "test", "test-slow", "lint"):
        assert f"make {target} " in text


@needs_make
def test_lint_sets_up_ruff_alone(stub_tree):
    assert run_make(stub_tree, "lint", "PYTHON=./python").returncode == 0
    assert (stub_tree / "calls").read_text().splitlines() == [
        "tools/setup_environment.py ruff",
        "-m ruff check .",
        "-m ruff format --check .",
    ]


@needs_make
@pytest.mark.parametrize("target", ["test", "demo"])
def test_setup_comes_before(target, stub_tree):
    run_make(stub_tree, target, "PYTHON=./python")
    assert (stub_tree / "calls").read_text().splitlines()[0] == "tools/setup_environment.py"


@needs_make
@pytest.mark.parametrize(
    "status, marked, succeeds",
    [("0", True, True), ("5", False, True), ("5", True, False), ("1", False, False)],
)
def test_slow_suite_may_be_empty_only_if_no_test_is_marked(status, marked, succeeds, stub_tree):
    mark = "@pytest.mark." + "slow\n"  # in two parts: grep reads this file too
    (stub_tree / "tests" / "test_it.py").write_text(mark if marked else "")
    done = run_make(stub_tree, "test-slow", "PYTHON=./python", STATUS=status)
    assert (done.returncode == 0) == succeeds


@needs_make
def test_an_empty_quick_suite_fails(stub_tree):
    assert run_make(stub_tree, "test", "PYTHON=./python").returncode != 0


@needs_make
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("fails", ["", "lint", "test", "test-slow"])
def test_ci_runs_all_three_and_fails_if_one_does(fails, tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    makefile = "lint test test-slow:\n\t@echo ran $@; test $@ != '$(FAILS)'\n"
    (tmp_path / "Makefile").write_text(makefile)
    done = subprocess.run(
        ["bash", str(tmp_path / ".ci" / "run")],
        env=environment_without_make(FAILS=fails),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == bool(fails)
    assert [line for line in done.stdout.splitlines() if line.startswith("ran ")] == [
        "ran lint",
        "ran test",
        "ran test-slow",
    ]
