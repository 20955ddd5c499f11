"""A small file of tables over the shipped configs, and a runner that trains in milliseconds."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

import fpn_d2.config
from fpn_d2.experiments import (
    Progress,
    Reproduction,
    Row,
    Runner,
    Scale,
    Table,
    Tables,
    four_step,
    reproduction,
)
from fpn_d2.experiments import runs as runs_module

FAKE = str(Path(__file__).parents[1] / "fake_train_net.py")

ROWS = {
    "c": Row("FPN", {"quick": "quick/RPN/rpn_R_18_FPN.yaml"}, {"AR1k": 56.3}),
    "d": Row("bottom-up", {"quick": "quick/RPN/rpn_R_18_bottom_up.yaml"}, {"AR1k": 49.5}),
    "p": Row("paper alone", {"paper": "RPN/rpn_R_50_FPN.yaml"}, {"AR1k": 49.5}),
}
FAST = {"quick": "quick/Fast-RCNN/fast_rcnn_R_18_FPN.yaml"}
C5 = {"quick": "quick/RPN/rpn_R_18_C5.yaml"}
ON_FIXED = {
    "c": Row("FPN", FAST, {"AP": 33.9}, proposals=ROWS["c"].configs),
    "b": Row("on C5's proposals", FAST, {}, proposals=C5),
}
STEPS = {
    "shared": Row("shared", {"quick": "quick/Feature-Sharing/shared_R_18_FPN.yaml"}),
    "not_shared": Row("not", {"quick": "quick/Feature-Sharing/unshared_R_18_FPN.yaml"}),
}


class Told(Progress):
    """A progress that keeps the lines that it says."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def progress():
    with Told() as progress:
        yield progress


@pytest.fixture
def tables(repo: Path) -> Tables:
    """Tables 1 (RPNs), 2 (Fast R-CNNs on fixed proposals), 5 (4-step training) and "time"."""
    metrics = {
        "AR1k": "box_proposals/AR@1000",
        "AR1k_s": "box_proposals/ARs@1000",
        "AP": "bbox/AP",
        "seconds": "timing/seconds",
        "slowest": "timing/slowest",
        "fastest": "timing/fastest",
    }
    tables = {
        "1": Table("1", "RPN", ["anchors", "AR1k"], ROWS, []),
        "2": Table("2", "Fast R-CNN", ["AP"], ON_FIXED, []),
        "5": Table("5", "4-step", ["AP"], STEPS, []),
        "time": Table("time", "Time", ["seconds"], STEPS, [], kind="timing"),
    }
    scales = {"quick": Scale("shapes"), "paper": Scale("coco")}
    return Tables(str(repo / "configs" / "tables.yaml"), metrics, scales, tables)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of all runs."""
    return tmp_path / "runs"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, str]]]:
    """``calls()``: the config, the flag and the keys of each call of the fake program."""
    log = tmp_path / "log.txt"
    monkeypatch.setenv("FAKE_LOG", str(log))

    def read() -> list[dict[str, str]]:
        found = []
        for line in log.read_text().splitlines() if log.exists() else ():
            _, config, flag, _, _, *words = json.loads(line)
            keys = dict(zip(words[::2], words[1::2], strict=True))
            found.append({"config": Path(config).stem, "flag": flag, **keys})
        return found

    return read


@pytest.fixture(scope="session")
def _configs_once() -> Callable[..., CfgNode]:
    once = functools.cache(fpn_d2.config.load_config)  # frozen, so it can be shared
    return lambda path="", opts=(): once(os.fspath(path), tuple(opts))


@pytest.fixture
def plan(
    tables: Tables,
    runs: Path,
    calls: Any,
    monkeypatch: pytest.MonkeyPatch,
    _configs_once: Callable[..., CfgNode],
) -> Reproduction:
    """The quick scale on its own data set, trained by the fake program.

    Every config is read from the disk once, although it is asked for hundreds of times.
    """
    for module in (runs_module, four_step, reproduction):
        monkeypatch.setattr(module, "load_config", _configs_once)
    return Reproduction(tables, "quick", str(runs), Runner(FAKE))
