"""Run every command of docs/tutorial.md and docs/finetuning.md, in order, in a copy of the
repository.

A comment right above a block says what this test does differently, so nothing is left out
silently: ``<!-- test adds: WORDS -->`` gives the block's only command more words, and
``<!-- test runs: COMMAND -->`` is an additional command after the block. A block with
``<!-- test needs: MODULE ... -->`` is left out if a module is not installed; the test is then
reported as skipped, with the module's name, once everything else has passed.

The built-in data set has 52 images in the copy, and the tutorial's trainings take 25 iterations:
after two, batch norm's statistics would fit nothing, no detection would be left, and the export
would have nothing to compare. Fine-tuning starts from a narrow network that the test puts where
Detectron2 keeps its downloads.
"""

import importlib.util
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from PIL import Image, ImageDraw

from fpn_d2 import load_config
from fpn_d2.config import stock_config

_BLOCK = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOT_COPIED = (".git", "__pycache__", ".*_cache", ".page-environment", "*.egg-info")
_NOT_COPIED_FROM_THE_TOP = {"output", "datasets", "results"}


class Block(NamedTuple):
    """A block of commands.

    Args:
        text: the block's text on the page.
        added: more words for its only command.
        after: commands that the test runs after it.
        needs: modules without which it cannot run.
    """

    text: str
    added: list[str]
    after: list[str]
    needs: list[str]

    @property
    def script(self) -> str:
        """The commands that the test runs."""
        lines = [" ".join([self.text.rstrip("\n"), *self.added]), *self.after]
        return "\n".join(lines) + "\n"


def read_blocks(page: str) -> list[Block]:
    blocks = []
    for comments, language, text in _BLOCK.findall(page):
        kinds = ("adds", "runs", "needs")
        added, after, needs = (re.findall(rf"<!-- test {k}: (.*) -->", comments) for k in kinds)
        known = len(added) + len(after) + len(needs)
        assert known == comments.count("\n"), f"a comment of no kind: {comments}"
        if language == "bash":
            blocks.append(Block(text, added, after, " ".join(needs).split()))
        else:
            assert not comments
    return blocks


@pytest.fixture(scope="module")
def pages(repo: Path) -> dict[str, str]:
    names = ("tutorial.md", "finetuning.md")
    return {name: (repo / "docs" / name).read_text(encoding="utf-8") for name in names}


def test_a_block_is_read_with_what_the_test_adds():
    comments = "<!-- test adds: B 2 -->\n<!-- test runs: ls -->\n<!-- test needs: x y -->\n"
    page = f"Text.\n{comments}```bash\na \\\n  A 1\n```\n\n```text\nno command\n```\n"
    (block,) = read_blocks(page)
    assert block.needs == ["x", "y"]
    assert block.script == "a \\\n  A 1 B 2\nls\n"
    with pytest.raises(AssertionError, match="of no kind"):
        read_blocks("<!-- test skips -->\n```bash\na\n```\n")


@pytest.mark.parametrize("name", ["tutorial.md", "finetuning.md"])
def test_no_command_stands_where_the_test_does_not_see_it(pages, name):
    page = pages[name]
    kinds = [language for _, language, _ in _BLOCK.findall(page)]
    assert page.count("```") == 2 * len(kinds)
    assert {"bash"} <= set(kinds) <= {"bash", "text"}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if language == "text":
            assert not re.search(r"^(make|python|\$) ", text, re.MULTILINE)
    for block in read_blocks(page):
        if block.added:  # the words go to the last command: it must be the only one
            lines = block.text.replace("\\\n", " ").strip().splitlines()
            assert len(lines) == 1, block.text
            assert shlex.split(f"{lines[0]} {block.added[0]}")


def test_from_a_yolo_folder_to_a_file_it_takes_eight_commands_and_no_code(pages):
    blocks = read_blocks(pages["finetuning.md"])
    commands = [block.text.replace("\\\n", " ").split() for block in blocks]
    assert len(commands) <= 8
    for words in commands:
        assert words[0] in ("make", "python")
        assert not {"-c", "-", ">", ">>", "|", "&&", ";"} & set(words)


@pytest.fixture
def copy(repo: Path, tmp_path: Path) -> Path:
    """A copy of the repository with what a clone has."""
    ignored = shutil.ignore_patterns(*_NOT_COPIED)

    def ignore(folder: str, names: list[str]) -> set[str]:
        at_the_top = Path(folder) == repo
        return ignored(folder, names) | (_NOT_COPIED_FROM_THE_TOP if at_the_top else set())

    return shutil.copytree(repo, tmp_path / "fpn_d2", ignore=ignore)


def run_page(page: str, copy: Path, **variables: str) -> set[str]:
    """Run a page's blocks in a copy of the repository, with these environment variables, and check
    that the files that it names exist. Return the modules needed by blocks that were left out."""
    programs = copy.parent / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    hidden = ("DETECTRON2_DATASETS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    hidden += ("PYTHONDONTWRITEBYTECODE",)  # or each program would compile the whole copy
    environment = {
        **{key: value for key, value in os.environ.items() if key not in hidden},
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    blocks = read_blocks(page)
    left = [b for b in blocks if not all(importlib.util.find_spec(name) for name in b.needs)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    for block in blocks:
        if block in left:
            continue
        command = ["bash", "-euo", "pipefail", "-c", block.script]
        done = subprocess.run(command, cwd=copy, env=environment, **pipes, text=True)
        assert done.returncode == 0, f"{block.script}\n{done.stdout[-3000:]}"
        assert "Traceback" not in done.stdout, f"{block.script}\n{done.stdout[-3000:]}"
    left_out = "".join(block.text for block in left)
    for path in re.findall(r"`((?:output|results)/[^`\s<>*]+)`", page):
        assert (copy / path).exists() or path in left_out, f"the page names {path}"
    return {name for block in left for name in block.needs}


def skip_without(modules: set[str]) -> None:
    if modules:
        pytest.skip(f"not installed: {' '.join(sorted(modules))}")


needs_make = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("bash")), reason="make and bash"
)


@pytest.mark.slow
@needs_make
def test_every_command_works_and_leaves_what_the_page_says(pages, copy):
    source = copy / "fpn_d2/data/datasets/shapes.py"
    code = source.read_text(encoding="utf-8")
    for number, fewer in (("train: int = 2000", "40"), ("val: int = 300", "12")):
        assert code.count(f" {number}\n") == 1
        code = code.replace(number, f"{number.rpartition(' ')[0]} {fewer}")
    source.write_text(code, encoding="utf-8")
    skip_without(run_page(pages["tutorial.md"], copy))


def write_yolo(folder: Path) -> None:
    """Write a YOLO folder: each image has a red square or a green disc on grey."""
    for split, count in (("train", 8), ("val", 4)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(1, count + 1):
            image = Image.new("RGB", (96, 96), (110, 110, 110))
            corner, side = (8 * i % 40, 20 * i % 44), 48
            box = (*corner, corner[0] + side - 1, corner[1] + side - 1)
            draw = ImageDraw.Draw(image)
            [draw.rectangle, draw.ellipse][i % 2](box, fill=[(220, 20, 20), (20, 200, 20)][i % 2])
            image.save(folder / "images" / split / f"{i}.jpg", quality=95)
            x, y = ((c + side / 2) / 96 for c in corner)
            label = f"{i % 2} {x:.6f} {y:.6f} {side / 96:.6f} {side / 96:.6f}\n"
            (folder / "labels" / split / f"{i}.txt").write_text(label)
    (folder / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [square, disc]\n"
    )


def write_downloaded(cache: Path, config: Path, opts: list[str]) -> None:
    """Write random weights in the model zoo's form, to where Detectron2 looks before it downloads
    those that this config names."""
    cfg = load_config(
        config, ["MODEL.NUM_CLASSES_FROM_DATA", "False", "MODEL.DEVICE", "cpu", *opts]
    )
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80
    path = cache / "detectron2" / cfg.MODEL.WEIGHTS.removeprefix("detectron2://")
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    model = build_model(stock_config(cfg))
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):  # frozen statistics of no data: keep the sums small
            value.fill_(0.2)
        elif name.endswith("stem.conv1.norm.weight"):  # pixels range from -128 to 128
            value.fill_(1 / 64)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))


@pytest.mark.slow
@needs_make
def test_a_yolo_folder_becomes_a_file(pages, copy, tmp_path):
    data, cache = copy / "datasets" / "fish", tmp_path / "cache"
    write_yolo(data)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    (training,) = (b for b in read_blocks(pages["finetuning.md"]) if "train_net.py" in b.text)
    config = re.search(r"--config-file (\S+)", training.text)[1]
    write_downloaded(cache, copy / config, shlex.split(training.added[0]))
    folders = {"FVCORE_CACHE": str(cache), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    missing = run_page(pages["finetuning.md"], copy, **folders)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    run = copy / "output" / "fish"
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 2
    assert written["SOLVER"]["MAX_ITER"] == 30 * 8 / 4
    skip_without(missing)
