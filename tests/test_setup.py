"""setup.py, `make setup` and the other targets, with stub packages, a stub pip and a stub Python.

Nothing here touches the environment that the tests run in, and only one test uses the network: it
asks for setuptools, and goes without it where it is not available.
"""

import importlib.util
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import setup_environment
from setup_environment import SetupError, find_source

ROOT = Path(setup_environment.__file__).resolve().parent.parent
SETUP = setup_environment.__file__

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
needs_make = pytest.mark.skipif(
    shutil.which("make") is None or os.name == "nt", reason="needs make and a shell"
)
needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX system")


def assert_one_sentence(message: object) -> None:
    """Check that a message is a single short line, without a full stop before a second sentence."""
    assert "\n" not in str(message)
    assert ". " not in str(message).replace("DETECTRON2=...", "")
    assert len(str(message)) < 500


# setup.py


def test_setup_py_imports_no_torch_and_requires_no_detectron2():
    code = """if True:
        import json, sys, setuptools
        from distutils.core import run_setup
        it = run_setup('setup.py', stop_after='init')
        heavy = [m for m in ('torch', 'detectron2', 'fpn_d2') if m in sys.modules]
        about = it.get_name(), it.get_version(), it.install_requires, it.extras_require
        print(json.dumps([heavy, *about, it.packages]))
    """
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    heavy, name, version, requires, extras, packages = json.loads(printed)
    assert heavy == []
    assert name == "fpn_d2"
    assert f'__version__ = "{version}"' in (ROOT / "fpn_d2" / "__init__.py").read_text()
    assert not [r for r in requires if r.startswith(("torch", "detectron2", "opencv"))]
    assert extras["dev"] == list(setup_environment.DEV_TOOLS.values())
    assert "fpn_d2" in packages
    assert {package.split(".")[0] for package in packages} == {"fpn_d2", "fpn_d2_tools"}


def test_the_pinned_commit_is_the_one_that_package_and_pages_name():
    for file in ("fpn_d2/__init__.py", "README.md", "README.zh-CN.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert {*re.findall(r"\b[0-9a-f]{40}\b", text)} == {setup_environment.DETECTRON2_COMMIT}, (
            file
        )


def test_the_least_torch_is_the_one_that_the_package_names():
    least = ".".join(map(str, setup_environment.LEAST_TORCH))
    text = (ROOT / "fpn_d2" / "__init__.py").read_text(encoding="utf-8")
    assert f"needs torch {least} or later" in text


# A real pip in an environment of its own, which finds stub packages in a folder


def write_wheel(folder: Path, name: str, version: str, module: str = "") -> Path:
    """Write a wheel of one module, whose ``__version__`` is the wheel's; return its path."""
    module = module or name
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    if module == "detectron2":
        files |= {"detectron2/layers.py": "", "detectron2/modeling.py": ""}
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return path


class Environment:
    """A virtual environment with this package in it, and a folder of wheels that its pip finds."""

    def __init__(self, folder: Path):
        ours = importlib.util.find_spec("pip")
        venv.create(folder / "env", with_pip=ours is None)
        self.python = str(folder / "env" / "bin" / "python")
        self.site = next((folder / "env" / "lib").glob("python*/site-packages"))
        if ours is not None:  # installing one takes four seconds
            (self.site / "pip").symlink_to(Path(ours.origin).parent)
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        for name in ("opencv_python", "opencv_python_headless"):
            write_wheel(self.wheels, name, "4.12.0", module="cv2")
        self.detectron2 = str(write_wheel(folder, "detectron2", "0.6"))
        info = self.site / "fpn_d2-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fpn_d2\nVersion: 0.1.0\n")
        origin = {"url": ROOT.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(origin))
        os.utime(info, (2**32, 2**32))  # later than any setup.py

    def set_up(self, **variables: str) -> subprocess.CompletedProcess:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        find = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        find |= {"PIP_CONFIG_FILE": os.devnull, "DETECTRON2": self.detectron2, "TORCH": ""}
        env = {**kept, **find, **variables}
        return subprocess.run([self.python, SETUP], env=env, capture_output=True, text=True)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path)


@needs_posix
def test_what_is_missing_is_installed_and_what_works_is_left_alone(environment):
    # Detectron2 is looked for before torch is downloaded.
    done = environment.set_up(DETECTRON2="/no/such/folder")
    assert done.returncode == 1
    assert done.stdout == ""  # pip has not begun
    assert_one_sentence(done.stderr.strip().removeprefix("setup: "))
    assert "/no/such/folder" in done.stderr

    write_wheel(environment.wheels, "torch", "2.11.0")
    write_wheel(environment.wheels, "torchvision", "0.26.0")
    done = environment.set_up()
    assert done.returncode == 0, done.stdout + done.stderr
    line = done.stdout.splitlines()[-1]
    assert "torch 2.11.0 | torchvision 0.26.0 | cv2 4.12.0" in line
    assert "detectron2 0.6 (without its compiled part) | fpn_d2 0.1.0" in line

    # Other versions that work stay, and pip is not called.
    version = environment.site / "torch" / "__init__.py"
    version.write_text("__version__ = '3.0'\n")
    again = environment.set_up(DETECTRON2="/does/not/matter", PIP_FIND_LINKS="/nowhere")
    assert again.returncode == 0
    assert again.stdout.count("\n") == 1
    assert "torch 3.0" in again.stdout


@needs_posix
@needs_git
def test_torch_as_torch_says_and_without_a_compiler_no_compiled_part(environment, repository):
    write_wheel(environment.wheels, "torch", "2.12.0")
    write_wheel(environment.wheels, "torchvision", "0.27.0")
    pip = [sys.executable, "-m", "pip", "--retries", "0", "--timeout", "5"]
    pip += ["wheel", "-q", "-w", environment.wheels, "setuptools<82", "wheel"]
    can_build = subprocess.run(pip).returncode == 0
    source = str(repository[0] / ".git") if can_build else environment.detectron2
    variables = {"TORCH": "torch==2.12.0 torchvision", "CXX": "no-such-compiler"}
    done = environment.set_up(DETECTRON2=source, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch 2.12.0 | torchvision 0.27.0" in done.stdout
    if not can_build:
        pytest.skip("setuptools cannot be had here")
    assert "Detectron2 comes without its compiled part" in done.stdout
    assert "detectron2 0.6 (without its compiled part)" in done.stdout.splitlines()[-1]
    assert (environment.site / "detectron2" / "model_zoo" / "configs" / "it.yaml").is_file()


# Decisions, with a stub pip


@pytest.fixture
def pip_calls(monkeypatch):
    """The arguments of each call of a pip that does nothing; this package counts as installed."""
    calls = []

    def pip(*arguments, failure, **options):
        calls.append(list(arguments))
        if any(word in getattr(pip, "fails_at", ()) for word in arguments):
            raise SetupError(failure)

    monkeypatch.setattr(setup_environment, "pip", pip)
    monkeypatch.setattr(setup_environment, "is_current", lambda: True)
    return calls


def set_machine(monkeypatch, platform, has_driver):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/nvidia-smi" if has_driver else None)
    monkeypatch.setattr(os.path, "exists", lambda path: has_driver)


@pytest.mark.parametrize(
    "wanted, platform, driver, cpu",
    [
        ("", "linux", False, True),
        ("", "linux", True, False),
        ("", "darwin", False, False),
        ("cpu", "linux", True, True),
        ("cuda", "linux", False, False),
    ],
)
def test_the_build_of_torch(wanted, platform, driver, cpu, pip_calls, monkeypatch):
    set_machine(monkeypatch, platform, driver)
    setup_environment.install_torch(wanted)
    (call,) = pip_calls
    assert (setup_environment.CPU_INDEX in call) == cpu
    assert call[-2:] == ["torch==2.11.0", "torchvision==0.26.0"]


def test_without_the_cpu_index_the_default_build_is_taken(pip_calls, monkeypatch):
    set_machine(monkeypatch, "linux", False)
    setup_environment.pip.fails_at = (setup_environment.CPU_INDEX,)
    setup_environment.install_torch("")
    assert len(pip_calls) == 2
    with pytest.raises(SetupError) as raised:
        setup_environment.install_torch("cpu")  # it was asked for
    assert_one_sentence(raised.value)


@pytest.mark.parametrize(
    "libgl, package", [("libGL.so.1", "opencv-python"), (None, "opencv-python-headless")]
)
def test_opencv_without_libgl_is_the_headless_one(libgl, package, pip_calls, monkeypatch, tmp_path):
    looks = iter([(None, "no"), (None, "no")])  # all together, then OpenCV alone
    found = dict.fromkeys(("torch", "torchvision", "detectron2"), ("3", ""))
    look = lambda name: found.get(name) or next(looks, ("4", ""))  # noqa: E731
    monkeypatch.setattr(setup_environment, "look", look)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: libgl)
    setup_environment.set_up(tmp_path)
    assert pip_calls == [["install", package]]


def test_where_nothing_is_missing_one_python_looks(pip_calls, monkeypatch, tmp_path):
    look = Mock(return_value=("2.7 0.2 4 0.6 unknown", ""))
    monkeypatch.setattr(setup_environment, "look", look)
    text = setup_environment.set_up(tmp_path)
    assert "torch 2.7 | torchvision 0.2 | cv2 4 | detectron2 0.6 | fpn_d2" in text
    look.assert_called_once_with("torch, torchvision, cv2, detectron2, detectron2._C")
    assert not pip_calls


@pytest.mark.parametrize(
    "before, after, refused",
    [
        ({"torch": "2.6.1+cpu", "torchvision": "0.21"}, "", "2.6.1+cpu"),
        ({}, "2.6", "2.6"),  # as TORCH asked for
        ({"torch": "2.6"}, "2.7.0a0+nv", ""),  # without torchvision: both are replaced
    ],
)
def test_a_torch_that_the_package_refuses_gets_one_sentence_before_anything_is_built(
    before, after, refused, pip_calls, monkeypatch, tmp_path
):
    def look(name):
        installed = {"torch": after, "torchvision": "1", "detectron2": "0.6"} if pip_calls else {}
        version = {**before, "cv2": "4", **installed}.get(name)
        return version, "" if version else "missing"

    monkeypatch.setattr(setup_environment, "look", look)
    monkeypatch.setattr(setup_environment, "find_source", lambda named, work: "detectron2.whl")
    monkeypatch.setattr(setup_environment, "install_detectron2", build := Mock())
    if not refused:
        assert f"torch {after} | " in setup_environment.set_up(tmp_path)
        build.assert_called()
        return
    with pytest.raises(SetupError) as raised:
        setup_environment.set_up(tmp_path)
    assert f"torch {refused} is older than 2.7" in str(raised.value)
    assert_one_sentence(raised.value)
    build.assert_not_called()


def test_detectron2_without_its_compiled_part_is_named(pip_calls, monkeypatch, tmp_path):
    look = lambda names: (None, "no _C") if "_C" in names else ("3", "")  # noqa: E731
    monkeypatch.setattr(setup_environment, "look", look)
    assert "detectron2 3 (without its compiled part)" in setup_environment.set_up(tmp_path)
    assert not pip_calls


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"url": "HERE", "dir_info": {"editable": True}}, True),
        ({"url": "HERE", "dir_info": {}}, False),  # a copy, which git pull does not update
        ({"url": "file:///elsewhere", "dir_info": {"editable": True}}, False),
        ({"url": "https://some.where/fpn_d2.whl", "archive_info": {}}, False),
    ],
)
def test_only_an_editable_installation_of_this_folder_is_current(
    origin, expected, monkeypatch, tmp_path
):
    (tmp_path / "fpn_d2-1.dist-info").mkdir()
    (tmp_path / "setup.py").touch()
    os.utime(tmp_path / "setup.py", (0, 0))
    origin = json.dumps(origin).replace("HERE", tmp_path.as_uri())
    distribution = SimpleNamespace(
        version="1", read_text=lambda _: origin, locate_file=lambda name: tmp_path / name
    )
    monkeypatch.setattr(setup_environment, "ROOT", tmp_path)
    monkeypatch.setattr(setup_environment.metadata, "distribution", lambda _: distribution)
    assert setup_environment.is_current() is expected


def test_look_tells_why_a_module_does_not_import(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise OSError('libfoo.so.1 is missing')\n")
    (tmp_path / "crashes.py").write_text("import os\nos._exit(7)\n")
    (tmp_path / "noisy.py").write_text("print('hello')\n__version__ = '1.2'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert setup_environment.look("broken") == (None, "OSError: libfoo.so.1 is missing")
    assert setup_environment.look("crashes") == (None, "Python ends with status 7")
    assert setup_environment.look("noisy") == ("1.2", "")


def test_a_package_that_does_not_import_after_all_gets_one_sentence(
    pip_calls, monkeypatch, tmp_path
):
    monkeypatch.setattr(setup_environment, "look", lambda name: (None, "ImportError: no"))
    monkeypatch.setattr(setup_environment, "find_source", lambda named, work: "detectron2.whl")
    with pytest.raises(SetupError, match="torch is installed and does not import") as raised:
        setup_environment.set_up(tmp_path)
    assert_one_sentence(raised.value)


# Where Detectron2 comes from


@pytest.fixture
def repository(tmp_path):
    """A git repository with two commits of a stub Detectron2: path, first commit and HEAD."""
    folder = tmp_path / "source" / "detectron2"
    (folder / "detectron2" / "model_zoo" / "configs").mkdir(parents=True)
    (folder / "detectron2" / "__init__.py").write_text("__version__ = '0.6'\n")
    for name in ("layers.py", "modeling.py", "model_zoo/configs/it.yaml"):
        (folder / "detectron2" / name).touch()
    (folder / "setup.py").write_text(
        "from setuptools import Extension, find_packages, setup\n"
        "setup(name='detectron2', version='0.6', packages=['detectron2'],\n"
        "      package_data={'detectron2': ['model_zoo/configs/*.yaml']},\n"
        "      ext_modules=[Extension('detectron2._C', ['no_such_file.cpp'])])\n"
    )
    (folder / "build").mkdir()

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        return subprocess.check_output(
            ["git", *identity, *arguments], cwd=folder, text=True
        ).strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    first = git("rev-parse", "HEAD")
    git("commit", "--quiet", "--allow-empty", "-m", "two")
    return folder, first, git("rev-parse", "HEAD")


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@needs_git
def test_a_source_folder_is_copied_without_its_builds(repository, work):
    copy = Path(find_source(str(repository[0]), work))
    assert copy.parent == work
    assert (copy / "setup.py").is_file()
    assert not (copy / "build").exists()
    assert not (copy / ".git").exists()


@needs_git
@pytest.mark.parametrize("form", ["bare", "without config", "git+file", "file"])
@pytest.mark.parametrize("has_pin", [True, False])
def test_a_git_repository_gives_the_pin_or_its_head(
    form, has_pin, repository, work, monkeypatch, capsys
):
    folder, first, head = repository
    monkeypatch.setattr(setup_environment, "DETECTRON2_COMMIT", first if has_pin else "0" * 40)
    bare = work.parent / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(folder), str(bare)], check=True)
    if form == "without config":
        (bare / "config").unlink()
    named = {"git+file": f"git+{bare.as_uri()}", "file": bare.as_uri()}.get(form, str(bare))
    with zipfile.ZipFile(find_source(named, work)) as packed:
        assert "detectron2/setup.py" in packed.namelist()
        assert packed.comment.decode() == (first if has_pin else head)  # as git archive writes it
    assert ("taking its HEAD" in capsys.readouterr().out) != has_pin


@needs_git
def test_a_commit_that_is_named_is_taken(repository, work):
    folder, first, _ = repository
    with zipfile.ZipFile(find_source(f"git+{folder.as_uri()}/.git@{first}", work)) as packed:
        assert packed.comment.decode() == first


@pytest.mark.parametrize("named", ["https://a.b/c/detectron2", "git+ssh://git@a.b/c.git@v0.6"])
def test_addresses_of_repositories_are_cloned(named, work, monkeypatch):
    calls = []
    monkeypatch.setattr(setup_environment, "run", lambda *words, **_: calls.append(words) or "")
    find_source(named, work)
    assert calls[0][:4] == ("git", "clone", "--quiet", "--bare")
    assert calls[0][4] == named.removeprefix("git+").removesuffix("@v0.6")
    assert calls[-1][-1] == ("v0.6" if "@v0.6" in named else setup_environment.DETECTRON2_COMMIT)


def test_what_pip_takes_itself_is_handed_on(tmp_path):
    for named in ("detectron2==0.6", "https://a.b/detectron2-0.6-py3-none-any.whl"):
        assert find_source(named, tmp_path) == named


@pytest.mark.parametrize("named", ["./nothing", "no/such/folder", "absent.whl", "EMPTY"])
def test_a_detectron2_that_is_nothing_gets_one_sentence(named, tmp_path, work):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match="make setup DETECTRON2=") as raised:
        find_source(str(tmp_path / "empty") if named == "EMPTY" else named, work)
    assert_one_sentence(raised.value)


@pytest.mark.parametrize(
    "named, has_git, sentence",
    [
        pytest.param("git+file:///no/such.git", True, "cannot be fetched", marks=needs_git),
        ("", False, "git is missing"),
    ],
)
def test_what_git_cannot_fetch_gets_one_sentence(named, has_git, sentence, tmp_path, monkeypatch):
    if not has_git:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=sentence) as raised:
        find_source(named, tmp_path)
    assert_one_sentence(raised.value)


def test_an_old_python_gets_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9))
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer") as raised:
        runpy.run_path(SETUP)
    assert_one_sentence(raised.value)


def test_a_failing_pip_raises_its_sentence_with_pips_output_above_it(capfd):
    with pytest.raises(SetupError, match="^do this$"):
        setup_environment.pip("no-such-command", failure="do this")
    assert "unknown command" in capfd.readouterr().err
    assert setup_environment.main(["black"]) == 1  # it prints the sentence and fails
    assert "there is no tool black; choose from pytest, xdist, ruff" in capfd.readouterr().err


# Makefile and .ci/run


def run_without_make(*command, folder, **added):
    """Run a command without the variables that a surrounding `make test` passes to another make."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    return subprocess.run(command, cwd=folder, env={**kept, **added}, **options)


def run_make(folder, *arguments, **environment):
    return run_without_make(
        "make", "--no-print-directory", *arguments, folder=folder, **environment
    )


@pytest.fixture
def stub_tree(tmp_path):
    """The Makefile, and a Python that appends its arguments to `calls`; its pytest ends with 5."""
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
    for target in ("setup", "demo", "results", "test", "test-slow", "test-page", "lint"):
        assert f"make {target} " in text


@needs_make
def test_the_path_of_python_may_have_a_space(stub_tree, monkeypatch):
    monkeypatch.delenv("PYTHON", raising=False)
    (stub_tree / "my env").mkdir()
    (stub_tree / "python").rename(stub_tree / "my env" / "python")
    path = f"{stub_tree / 'my env'}{os.pathsep}{os.environ['PATH']}"
    assert run_make(stub_tree, "lint", PATH=path).returncode == 0
    assert (stub_tree / "calls").is_file()


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
def test_setup_comes_before_and_an_empty_quick_suite_fails(target, stub_tree):
    done = run_make(stub_tree, target, "PYTHON=./python")
    assert done.returncode != 0 or target == "demo"
    assert (stub_tree / "calls").read_text().splitlines()[0] == "tools/setup_environment.py"


@needs_make
@pytest.mark.parametrize(
    "options, folder",
    [
        ("", "output/demo"),
        ("SEED 1 OUTPUT_DIR output/mine SOLVER.MAX_ITER 9", "output/mine"),
        ("OUTPUT_DIR  output/mine", "output/mine"),
        ("OVERWRITE_OUTPUT_DIR False", "output/demo"),
    ],
)
def test_the_demo_draws_the_run_that_it_trains(options, folder, stub_tree):
    assert run_make(stub_tree, "demo", "PYTHON=./python", f"OPTIONS={options}").returncode == 0
    *_, train, draw = (stub_tree / "calls").read_text().splitlines()
    assert train.startswith("train_net.py --config-file configs/quick/demo.yaml ")
    words = train.split()
    assert " ".join(options.split()) in " ".join(words)
    # The last one counts.
    assert [b for a, b in itertools.pairwise(words) if a == "OUTPUT_DIR"][-1] == folder
    assert draw == f"tools/draw_results.py {folder}"


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
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("fails", ["", "lint", "test", "test-slow", "test-page"])
def test_ci_runs_all_and_fails_if_one_does(fails, tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    targets = ["lint", "test", "test-slow", "test-page"]
    makefile = f"{' '.join(targets)}:\n\t@echo ran $@; test $@ != '$(FAILS)'\n"
    (tmp_path / "Makefile").write_text(makefile)
    chromium = tmp_path / "chromium"  # or .ci/run would install it
    chromium.write_text("#!/bin/sh\n")
    chromium.chmod(0o755)
    added = {"FAILS": fails, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = run_without_make("bash", str(tmp_path / ".ci" / "run"), folder=ROOT, **added)
    assert (done.returncode != 0) == bool(fails)
    ran = [line for line in done.stdout.splitlines() if line.startswith("ran ")]
    assert ran == [f"ran {target}" for target in targets]


def test_help_installs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(setup_environment, "set_up", lambda work: pytest.fail("set up"))
    with pytest.raises(SystemExit) as end:
        setup_environment.main(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "DETECTRON2" in printed
    assert "pytest, xdist" in printed
