"""Where a number comes from, without naming the machine."""

import json
import os
import platform
import shutil

import torch

import fpn_d2
from fpn_d2.utils import provenance


def test_a_commit_with_changes_is_marked(tmp_path):
    def git(*words):
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        provenance._git(tmp_path, *options, *words)

    assert provenance.git_commit(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    commit = provenance.git_commit(tmp_path)
    assert provenance._git(tmp_path, "rev-parse", "HEAD").startswith(commit)
    (tmp_path / "b").write_text("no file of the repository")
    assert provenance.git_commit(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert provenance.git_commit(tmp_path) == f"{commit}+"
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    assert provenance.git_commit(installed) == "unknown"  # that repository is another program's


def test_a_machine_is_described_without_its_name():
    text = json.dumps(provenance.describe_machine())
    assert set(json.loads(text)) == {"processor", "instructions", "cores", "memory_gib", "gpus"}
    assert platform.node() not in text


def test_a_processors_generation_is_told(monkeypatch):
    lines = {"cpu family": "26", "model": "2", "model name": "AMD EPYC"}
    monkeypatch.setattr(provenance, "cpu_info", lambda field: lines.get(field, ""))
    assert provenance.describe_machine()["processor"] == "AMD EPYC (family 26, model 2)"
    del lines["cpu family"]
    assert provenance.describe_machine()["processor"] == "AMD EPYC"


def test_a_gpus_arithmetic_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    found = provenance.describe_machine()
    assert (found["gpus"], found["tf32"]) == (["GPU 0", "GPU 1"], True)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert provenance.describe_machine()["tf32"] is False
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert provenance.describe_machine()["tf32"] is False


def test_the_versions_are_those_of_the_packages_that_run():
    versions = provenance.describe_versions()
    assert list(versions) == ["python", "torch", "torchvision", "detectron2", "fpn_d2"]
    assert versions["fpn_d2"] == fpn_d2.__version__


def test_the_hash_is_of_the_configs_and_the_models_code(tmp_path, monkeypatch):
    package = tmp_path / "package"
    monkeypatch.setattr(provenance, "__file__", str(package / "utils" / "provenance.py"))
    files = {
        "package/modeling/fpn.py": True,
        "package/modeling/masks/head.py": True,
        "package/layers/a.py": True,
        "package/structures.py": True,
        "configs/Base.yaml": True,
        "configs/quick/RPN/a.yaml": True,
        "configs/tables.yaml": False,  # its claims and numbers train nothing
        "package/experiments/report.py": False,
    }
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    first = provenance.code_hash(tmp_path)
    for name, counts in files.items():
        (tmp_path / name).write_text("2")
        assert (provenance.code_hash(tmp_path) != first) == counts, name
        (tmp_path / name).write_text("1")
    assert provenance.code_hash(tmp_path) == first
    # a wheel has the configs in the package, and its programs beside it
    shutil.move(tmp_path / "configs", package / "configs")
    programs = tmp_path / "programs"
    programs.mkdir()
    assert provenance.code_hash(programs) == first
    shutil.move(package / "configs", tmp_path / "configs")
    (tmp_path / "configs/quick/RPN/a.yaml").rename(tmp_path / "configs/quick/RPN/b.yaml")
    assert provenance.code_hash(tmp_path) != first


def test_a_machine_is_described_on_windows_too(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert "memory_gib" not in provenance.describe_machine()
