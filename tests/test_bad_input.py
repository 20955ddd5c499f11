"""Every kind of bad input ends in one sentence with a remedy, and no file is touched.

The cases are in ``bad_inputs.py``; each calls the program as a user does, in this process.
"""

import hashlib
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from bad_inputs import CASES, FASTER, GROUPS, Scene
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

import train_net
from fpn_d2.data.datasets import register_coco_folders
from fpn_d2.engine import launch

pytestmark = pytest.mark.usefixtures("no_stale_logs")

# A word that tells what to do; the fault alone is no sentence that helps.
REMEDY = re.compile(
    r"\b(add|annotate|choose|copy|correct|delete|did you mean|evaluate|give|it can be|leave|list|"
    r"make|must hold|name|number|put|rename|replace|restart|set|switch|take|there are|train|use|"
    r"write)\b"
)


@pytest.fixture(scope="module")
def whole(row_config, tmp_path_factory):
    """A checkpoint of an untrained Faster R-CNN, which the row takes."""
    path = tmp_path_factory.mktemp("weights") / "whole.pth"
    torch.save({"model": build_model(row_config(FASTER).clone()).state_dict()}, path)
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
    monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", str)  # it takes a second
    names = register_coco_folders(str(inputs / "data"))
    yield Scene(inputs, output, repo, options)
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def contents(*folders):
    """Every file's hash, a linked one's time and size (it is large), and the names of folders."""

    def content(path):
        if path.is_symlink():
            return path.stat().st_mtime_ns, path.stat().st_size
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    return {path: content(path) for folder in folders for path in sorted(folder.rglob("*"))}


def call(name, words, monkeypatch):
    """Run a program's main with these words; returns its exit code."""
    try:
        if name == "train_net":
            launch(train_net.main, default_argument_parser().parse_args(words))
        else:
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
            importlib.import_module(name).main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_sentence_and_touches_nothing(scene, case, monkeypatch, capsys):
    make, named = CASES[case]
    name, *words = make(scene)
    words = [re.sub(r"^IN\b", str(scene.inputs), word) for word in words]
    words = [re.sub(r"^OUT\b", str(scene.output), word) for word in words]
    before = contents(scene.inputs, scene.output)
    capsys.readouterr()
    code = call(name, words, monkeypatch)
    stdout, stderr = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in stdout + stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert stderr.endswith(f"{errors[0]}\n")
    for word in named:
        assert word in errors[0]
    assert REMEDY.search(errors[0])
    assert len(errors[0]) < 700
    after = contents(scene.inputs, scene.output)
    log = scene.output / "log.txt"
    assert log.read_text().startswith(json.dumps({"of": "an earlier run"}))
    later = {log}
    if "in training" in case:  # it had begun, in a folder without checkpoints
        later |= {scene.output / "config.yaml", scene.output / "metrics.json"}
    for path in later:
        before.pop(path), after.pop(path)
    assert after == before


def test_there_are_enough_cases_of_each_kind():
    assert sum(map(len, GROUPS.values())) >= 50
    assert min(map(len, GROUPS.values())) >= 10


@pytest.mark.parametrize("words", [[], ["--eval-only", "MODEL.WEIGHTS", "WHOLE"]])
def test_the_scene_itself_is_sound(scene, words, monkeypatch, capsys):
    words = [word.replace("WHOLE", str(scene.inputs / "whole.pth")) for word in words]
    name, *words = scene.train(FASTER, *words, "SOLVER.MAX_ITER", 1)
    assert call(name, words, monkeypatch) == 0, capsys.readouterr().err
