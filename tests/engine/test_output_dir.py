"""One training in one folder, and the lines of its metrics."""

import importlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from fpn_d2 import UserError, load_config
from fpn_d2.engine import check_output_dir, restored_config
from fpn_d2.engine.launch import starter
from fpn_d2.engine.output_dir import (
    clear_output_dir,
    keep_steps_before,
    losses_of,
    progress_of,
    read_steps,
    training_seconds,
)

RPN = "configs/quick/RPN/rpn_R_18_FPN.yaml"


@pytest.fixture
def folder(repo, tmp_path):
    """``folder(*opts)``: the config of a training into a folder with checkpoints."""
    (tmp_path / "out").mkdir()
    for name in ("last_checkpoint", "model_0000001.pth", "metrics.json"):
        (tmp_path / "out" / name).write_text("")
    return lambda *opts: load_config(repo / RPN, ["OUTPUT_DIR", str(tmp_path / "out"), *opts])


def test_a_second_training_is_refused_unless_it_resumes_or_overwrites(folder, tmp_path):
    with pytest.raises(UserError, match=r"model_0000001\.pth.*--resume.*OVERWRITE_OUTPUT_DIR"):
        check_output_dir(folder(), resume=False)
    assert check_output_dir(folder(), resume=True)
    overwriting = "OVERWRITE_OUTPUT_DIR", "True"
    assert not check_output_dir(folder(*overwriting), resume=False)
    assert (tmp_path / "out" / "model_0000001.pth").exists()  # until the new one begins
    own = str(tmp_path / "out" / "model_0000001.pth")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for path, output in ((own, "out"), (own.replace("/out/", "/link/"), "out"), (own, "link")):
        opts = ["MODEL.WEIGHTS", path, "OUTPUT_DIR", str(tmp_path / output)]
        with pytest.raises(UserError, match=r"MODEL\.WEIGHTS .* is one of the checkpoints"):
            check_output_dir(folder(*overwriting, *opts), resume=False)


def test_what_torchrun_restarts_resumes_only_what_it_began(folder, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for count in "012":  # refused at first, so also after torchrun's restarts
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(UserError):
            check_output_dir(folder(), resume=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert check_output_dir(folder(), resume=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert check_output_dir(folder(), resume=False)


def test_a_torchrun_that_makes_room_for_another_counts_no_restart_and_resumes(folder, monkeypatch):
    """Its processes start anew with the count 0, as those of the torchrun that came back do."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    stays, dead, back = "one 7 boot 100", "two 7 boot 100", "two 7 boot 900"
    module = importlib.import_module("fpn_d2.engine.output_dir")
    starters, restarted = {"of_all": [stays, dead]}, []
    monkeypatch.setattr(module, "starter", lambda: starters["of_all"][0])

    def gathered(value):
        others = restarted if isinstance(value, bool) else []
        return starters["of_all"] if isinstance(value, str) else [value, *others]

    monkeypatch.setattr(module.comm, "all_gather", gathered)
    overwriting = folder("OVERWRITE_OUTPUT_DIR", "True")
    assert not check_output_dir(overwriting, resume=False)  # the user's start, which deletes
    clear_output_dir(overwriting.OUTPUT_DIR)
    Path(overwriting.OUTPUT_DIR, "model_0000001.pth").write_text("")
    starters["of_all"] = [back, stays]
    assert check_output_dir(overwriting, resume=False)
    assert check_output_dir(folder(), resume=False)
    starters["of_all"], restarted[:] = ["one 8 boot 901", "two 8 boot 901"], [True]  # the other's
    assert check_output_dir(overwriting, resume=False)
    starters["of_all"], restarted[:] = ["one 8 boot 902", "two 8 boot 902"], []  # the user's start
    assert not check_output_dir(overwriting, resume=False)
    starters["of_all"] = ["one 9 boot 903", "two 9 boot 903"]
    with pytest.raises(UserError, match="holds the checkpoints of an earlier training"):
        check_output_dir(folder(), resume=False)


def test_what_an_earlier_start_left_is_not_taken_for_this_ones(folder, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    cfg = folder("OVERWRITE_OUTPUT_DIR", "True")
    for name in ("dead", "own"):
        monkeypatch.setattr("fpn_d2.engine.output_dir.starter", lambda name=name: name)
        assert not check_output_dir(cfg, resume=False)
        for path in Path(cfg.OUTPUT_DIR).glob("[!.]*"):  # rm output/*
            path.unlink()
    clear_output_dir(cfg.OUTPUT_DIR)
    Path(cfg.OUTPUT_DIR, "model_0000001.pth").touch()
    assert check_output_dir(cfg, resume=False)


def test_a_restart_before_the_earlier_training_is_deleted_does_not_resume_it(folder, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    cfg = folder("OVERWRITE_OUTPUT_DIR", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert check_output_dir(cfg, resume=True)  # the earlier training's
    monkeypatch.setattr("fpn_d2.engine.output_dir.starter", lambda: "another torchrun")
    for count in "01":
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        assert not check_output_dir(cfg, resume=False)
    clear_output_dir(cfg.OUTPUT_DIR)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert check_output_dir(cfg, resume=False)


def test_a_starter_is_told_from_others_and_from_one_of_its_number():
    own = starter()
    assert own == starter()
    assert f" {os.getppid()} " in f"{own} "
    with multiprocessing.get_context("fork").Pool(1) as pool:
        of_child = pool.apply(starter)
    assert f" {os.getpid()} " in f"{of_child} "
    assert of_child != own
    if sys.platform == "linux":
        ticks = os.sysconf("SC_CLK_TCK")
        begun = int(of_child.split()[-1]) / ticks
        now = float(Path("/proc/uptime").read_text().split()[0])
        assert 0 < now - begun < 24 * 3600
        assert begun >= int(own.split()[-1]) / ticks  # this process began after its parent


@pytest.mark.parametrize("name", ["file/run", "/proc/run"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    folder = str(tmp_path / name)
    sentence = f"OUTPUT_DIR {folder} cannot be made .*; set it to a folder"
    with pytest.raises(UserError, match=sentence), restored_config(folder):
        raise AssertionError("not reached")
    with restored_config(str(tmp_path / "new/run")):
        assert (tmp_path / "new/run").is_dir()


@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_a_start_that_fails_leaves_the_config_of_the_training_before_it(tmp_path, error):
    path = tmp_path / "config.yaml"
    path.write_text("A: 1\n")

    def start(error=None):
        with restored_config(str(tmp_path)):
            path.write_text("A: 2\n")
            if error:
                raise error

    with pytest.raises(type(error)):
        start(error)
    assert path.read_text() == "A: 1\n"
    start()
    assert path.read_text() == "A: 2\n"


@pytest.mark.parametrize("trained", [True, False])
def test_an_evaluation_leaves_the_config_of_a_training_alone(tmp_path, trained):
    path = tmp_path / "config.yaml"
    path.write_text("A: 1\n")
    if trained:
        (tmp_path / "model_final.pth").touch()
    with restored_config(str(tmp_path), evaluation=True):
        path.write_text("A: 2\n")
    assert path.read_text() == ("A: 1\n" if trained else "A: 2\n")


def test_metrics_of_what_comes_again_are_cut_off(tmp_path):
    path = tmp_path / "metrics.json"
    # The evaluation of iteration 49 is written with the next losses, behind them.
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) + "\n" for i in (19, 39, 59, 49)]
    path.write_text("".join(lines) + '{"iteration": 7')
    keep_steps_before(str(tmp_path), 60)
    assert path.read_text() == "".join(lines)
    keep_steps_before(str(tmp_path), 50)
    assert path.read_text() == "".join([*lines[:2], lines[3]])
    keep_steps_before(str(tmp_path), 40)
    assert path.read_text() == "".join(lines[:2])
    keep_steps_before(str(tmp_path), 39)  # which is trained again
    assert path.read_text() == lines[0]
    keep_steps_before(str(tmp_path / "nowhere"), 40)


def test_steps_are_read_once_each_with_their_time_and_losses(tmp_path):
    lines = [
        {"iteration": 39, "total_loss": 1.0, "time": 0.25, "eta_seconds": 7.0},  # before a resume
        {"iteration": 19, "total_loss": 2.0, "time": 0.5, "validation_loss": 3.0},
        {"iteration": 39, "total_loss": 1.5},  # what a failed training writes again
        {"iteration": 59, "bbox/AP": 1.0},  # no step
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "metrics.json").write_text(text + '{"iteration": 7')
    steps = read_steps(str(tmp_path))
    assert losses_of(steps) == {"iteration": [19, 39], "total_loss": [2.0, 1.5]}
    assert training_seconds(steps) == 20 * 0.5 + 20 * 0.25
    assert progress_of(str(tmp_path), 60) == (40, 60, 7.0)
    assert progress_of(str(tmp_path / "nowhere"), 60) == (0, 60, None)


@pytest.mark.parametrize("trained", [True, False])
def test_what_an_earlier_model_found_goes_with_it_but_for_proposals(tmp_path, trained):
    # the files of COCO's, LVIS's, the mask proposals' and Detectron2's other evaluators
    of_weights = ["results.json", "coco_instances_results.json", "lvis_instances_results.json"]
    of_weights += ["instances_predictions.pth", "mask_proposals.json"]
    of_weights += ["sem_seg_predictions.json", "sem_seg_evaluation.pth", "predictions.json"]
    for place in ("inference", "inference_TTA", "inference_before"):
        (tmp_path / place / "old_val").mkdir(parents=True)
        for name in (*of_weights, "box_proposals.pkl"):
            (tmp_path / place / "old_val" / name).touch()
    if trained:
        (tmp_path / "model_final.pth").touch()
    clear_output_dir(str(tmp_path))
    kept = {"inference_before"} | (set() if trained else {"inference", "inference_TTA"})
    for name in of_weights:
        assert {path.parts[-3] for path in tmp_path.rglob(name)} == kept, name
    assert len([*tmp_path.rglob("box_proposals.pkl")]) == 3


@pytest.mark.parametrize("names", [["analysis.html"], ["analysis.html", "analysis.json"]])
def test_an_analysis_goes_with_its_page_and_another_page_stays(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    clear_output_dir(str(tmp_path))
    assert (tmp_path / "analysis.html").exists() == (len(names) == 1)
