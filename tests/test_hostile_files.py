"""train_net.py refuses files that would run code, naming them, and loads their benign twins.

SECURITY.md's table says what stock Detectron2 does with each file; this is checked here, too.
"""

import contextlib
import multiprocessing
import os
import re
import resource
import signal

import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data.build import load_proposals_into_dataset
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from hostile_files import FAST, KINDS, Case, World
from torch import nn

from fpn_d2.data.datasets import register_folders
from fpn_d2.engine import Trainer

pytestmark = pytest.mark.usefixtures("no_stale_logs")


@pytest.fixture(scope="module")
def weights(row_config, tiny_words):
    """The weights of an untrained Faster R-CNN, all of which the row takes."""
    row = row_config("quick/Faster-RCNN/faster_rcnn_R_18_FPN", *tiny_words)
    return {name: value.clone() for name, value in build_model(row.clone()).state_dict().items()}


@pytest.fixture
def world(tmp_path, repo, weights, tiny_root):
    return World(tmp_path, repo, weights, tiny_root)


@pytest.fixture
def run(run_train_net):
    """``run(world, case)``: ``run_train_net`` with the data sets of the world's folder."""

    def call(world: World, case: Case):
        register_folders(str(world.folder / "data"))
        return run_train_net(case.row, *case.words, "SOLVER.MAX_ITER", "1")

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_is_refused_by_name(world, run, kind):
    case = KINDS[kind](world, True)
    code, stdout, stderr = run(world, case)
    assert code == 2
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert case.file in stderr
    assert len(stderr) < 600
    assert "Traceback" not in stdout + stderr
    assert not (world.folder / "made").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_its_benign_twin_loads(world, run, kind, monkeypatch):
    """Run up to the first step or to the evaluation, which are tested elsewhere."""
    reached = []
    monkeypatch.setattr(Trainer, "train", lambda trainer: reached.append(trainer))
    inner = Trainer.test.__func__

    def test(cls, cfg, model, evaluators=None):
        reached.append(model)
        if cfg.MODEL.LOAD_PROPOSALS or "nested" in cfg.DATASETS.TEST[0]:  # read by the evaluation
            return inner(cls, cfg, model, evaluators)
        return {}

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    code, _, stderr = run(world, KINDS[kind](world, False))
    assert (code, stderr) == (0, "")
    assert reached
    assert not (world.folder / "made").exists()


# -- stock Detectron2, for contrast --------------------------------------------------------------


def stock(case: Case) -> None:
    """Do with a file what stock Detectron2's train_net.py does, but without the actual model."""
    if case.row.endswith(".yaml"):
        get_cfg().merge_from_file(case.row)
    elif "--resume" in case.words:
        folder = os.path.dirname(case.file)
        DetectionCheckpointer(nn.Linear(1, 1), folder).resume_or_load("", resume=True)
    elif case.row == FAST:
        load_proposals_into_dataset([{"image_id": 1}], case.file)
    elif case.file.endswith(".json"):
        load_coco_json(case.file, os.path.dirname(case.file), None)
    else:
        DetectionCheckpointer(nn.Linear(1, 1)).load(case.file)


def in_child(case: Case, answer) -> None:
    """Send the outcome in 16 GB and five seconds of processor time, however busy the machine is."""
    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (5, 6))
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        try:
            stock(case)
        except BaseException as error:
            answer.send(type(error).__name__)
        else:
            answer.send("loads it")


def outcome(world: World, case: Case) -> str:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=in_child, args=(case, sender))
    process.start()
    process.join()
    if (world.folder / "made").exists():
        return "runs it"
    if process.exitcode == -signal.SIGXCPU:
        return "hangs"
    return receiver.recv() if receiver.poll() else "dies of it"


@pytest.mark.parametrize("kind", KINDS)
def test_security_md_says_what_stock_detectron2_does(world, repo, kind):
    text = (repo / "SECURITY.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE))
    found = outcome(world, KINDS[kind](world, True))
    assert kind in rows
    # an error's class in words: "Unpickling error" for UnpicklingError
    assert rows[kind].startswith(found.replace("Error", " error"))
