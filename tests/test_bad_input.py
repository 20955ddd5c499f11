"""Every kind of bad input ends in one sentence with a remedy, and no file is touched.

The cases are in ``bad_inputs.py``; each runs the program in this process, as a user would call it.
"""

import gc
import hashlib
import importlib
import json
import multiprocessing
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bad_inputs import CASES, CUT, FASTER, FOLDER, HALF, MISSING, REMEDY, REMOVED, Case
from detectron2.modeling import build_model
from torch.utils.data import _utils as loader_utils

import train_net
from fpn_d2.data.datasets import register_folders
from fpn_d2.engine import launch

pytestmark = pytest.mark.usefixtures("no_stale_logs")


@pytest.fixture(scope="module")
def whole(row_config, tiny_words, tmp_path_factory):
    """A checkpoint of an untrained Faster R-CNN, which fits the row."""
    path = tmp_path_factory.mktemp("weights") / "whole.pth"
    torch.save({"model": build_model(row_config(FASTER, *tiny_words).clone()).state_dict()}, path)
    return path


@pytest.fixture
def scene(tmp_path, tiny_root, tiny_opts, repo, whole, monkeypatch):
    inputs, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(Path(tiny_root) / "tiny", inputs / "data/bad")
    (inputs / "whole.pth").symlink_to(whole)
    (inputs / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    (inputs / "folder.pth").mkdir()
    output.mkdir()
    for name in ("config.yaml", "metrics.json", "log.txt", "there.pth"):
        (output / name).write_text(json.dumps({"of": "an earlier run"}) + "\n")
    options = [word.replace("tiny_", "bad_") for word in tiny_opts]
    options[options.index("OUTPUT_DIR") + 1] = str(output)
    monkeypatch.chdir(repo)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(inputs / "data"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    register_folders(str(inputs / "data"))
    # A failed loader gives each of its processes 5 s to end when it is freed, which is below.
    monkeypatch.setattr(loader_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    yield SimpleNamespace(inputs=inputs, output=output, repo=repo, options=options)
    if multiprocessing.active_children():
        gc.collect()


def put(scene, text):
    """Replace IN, OUT and REPO in a word or a text with the scene's folders."""
    for name, folder in (("IN", scene.inputs), ("OUT", scene.output), ("REPO", scene.repo)):
        text = re.sub(rf"\b{name}\b", str(folder), text)
    return text


def write(scene, name, content):
    """Write a file of a case, or spoil the one that is there; ``*`` is a wildcard."""
    named = Path(put(scene, name))
    for path in sorted(named.parent.glob(named.name)) or [named]:
        if content == CUT:
            path.write_bytes(path.read_bytes()[:-300])
        elif content == MISSING:
            path.rename(scene.inputs / "elsewhere")
        elif content == FOLDER:
            path.unlink(missing_ok=True)
            path.mkdir()
        elif content == HALF:
            whole = (scene.inputs / "whole.pth").read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(put(scene, content))


def change(scene, split, change):
    """Change some values in the annotation file of a split, or replace the file with a text."""
    path = scene.inputs / f"data/bad/annotations/instances_{split}.json"
    if isinstance(change, str):
        path.write_text(change, encoding="utf-8")
        return
    content = json.loads(path.read_text())
    for place, value in change.items():
        *keys, last = place.split(".")
        parents = [content]
        for key in keys:
            if key == "*":
                parents = [entry for parent in parents for entry in parent]
            else:
                parents = [parent[int(key) if key.isdigit() else key] for parent in parents]
        for parent in parents:
            if value == REMOVED:
                del parent[last]
            else:
                parent[int(last) if last.isdigit() else last] = value
    path.write_text(json.dumps(content))


def command(scene, case):
    """Return the program's name and its command line, word by word."""
    row = case.row if "/in/" in put(scene, case.row) else f"configs/{case.row}.yaml"
    opts = [str(word) for word in case.opts]
    # A flag that follows overrides stays where it is: it is the fault.
    flags = []
    while opts and opts[0].startswith("--"):
        flags.append(opts.pop(0))
    parts = {"CONFIG": ["--config-file", row], "OPTIONS": scene.options}
    words = case.command or ["train_net", "CONFIG", *flags, "OPTIONS", *opts]
    words = [part for word in words for part in parts.get(word, [word])]
    return [put(scene, word) for word in words]


def contents(*folders):
    """Map each path to its file's hash, to a (large) linked file's time and size, or to ''."""

    def content(path):
        if path.is_symlink():
            return path.stat().st_mtime_ns, path.stat().st_size
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    return {path: content(path) for folder in folders for path in sorted(folder.rglob("*"))}


def call(name, words, monkeypatch):
    """Run a program's main with these words and return its exit code."""
    try:
        if name == "train_net":
            launch(train_net.main, train_net.build_parser().parse_args(words))
        else:
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
            importlib.import_module(name).main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_sentence_and_touches_nothing(scene, case, monkeypatch, capsys):
    row = CASES[case]
    for file, content in row.files.items():
        write(scene, file, content)
    for split, changes in (("train", row.train), ("val", row.val)):
        if changes is not None:
            change(scene, split, changes)
    name, *words = command(scene, row)
    before = contents(scene.inputs, scene.output)
    capsys.readouterr()
    code = call(name, words, monkeypatch)
    stdout, stderr = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in stdout + stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert stderr.endswith(f"{errors[0]}\n")
    for word in row.named:
        assert word in errors[0]
    assert REMEDY.search(errors[0])
    assert len(errors[0]) < 700
    after = contents(scene.inputs, scene.output)
    log = scene.output / "log.txt"
    assert log.read_text().startswith(json.dumps({"of": "an earlier run"}))
    later = {log}
    if "in training" in case:  # it had begun, as the folder has no checkpoint
        later |= {scene.output / "config.yaml", scene.output / "metrics.json"}
        told = log.read_text()
        assert told.count(f"Training stopped: {errors[0].removeprefix('error: ')}") == 1
        assert "Traceback" not in told
    for path in later:
        before.pop(path), after.pop(path)
    assert after == before


@pytest.mark.parametrize("opts", [[], ["--eval-only", "MODEL.WEIGHTS", "IN/whole.pth"]])
def test_the_scene_itself_is_sound(scene, opts, monkeypatch, capsys):
    name, *words = command(scene, Case([], [*opts, "SOLVER.MAX_ITER", 1]))
    assert call(name, words, monkeypatch) == 0, capsys.readouterr().err
