"""One run: what it trains, what it only reads, what it refuses, and what a kill leaves."""

import errno
import json
import multiprocessing
import ntpath
import os
import pickle
import shlex
import signal
import sys
from pathlib import Path
from unittest.mock import Mock

import portalocker
import pytest
from waiting import wait_for

from fpn_d2 import UserError, config, load_config
from fpn_d2.experiments import BusyError, Run, Runner, runs
from fpn_d2.experiments.runs import check_settings

FAKE = str(Path(__file__).parents[1] / "fake_train_net.py")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """``calls()``: the words of each call of the program so far."""
    log = tmp_path / "log.txt"
    monkeypatch.setenv("FAKE_LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()] * log.exists()


@pytest.fixture
def run(repo, tmp_path, calls):
    """A run that trains an RPN on the data set a and tests it on b."""
    opts = ("DATASETS.TRAIN", "('a',)", "DATASETS.TEST", "('b',)", "SEED", "3")
    config = str(repo / "configs/quick/RPN/rpn_R_18_FPN.yaml")
    return Run(config, str(tmp_path / "run [1]"), (*opts, "SOLVER.MAX_ITER", "30"))


@pytest.fixture
def runner():
    return Runner(FAKE, num_gpus=2)


def refusal(call, *args, error=UserError):
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- training and reading ----------------------------------------------------------------------


def test_the_program_is_called_as_a_user_would_call_it(run, runner, calls):
    runner.train(run)
    flags = ["--config-file", run.config, "--resume", "--dist-url", "auto", "--num-gpus", "2"]
    assert calls() == [[*flags, *run.opts, "OUTPUT_DIR", run.folder]]


def test_a_run_is_told_with_all_that_it_has_come_to(run, runner):
    result = runner.train(run)
    assert result["results"] == {
        "b": {"box_proposals": {"AR@100": 23.0, "AR@1000": 43.0, "ARs@1000": None}}
    }
    # iterations 0 to 19 take 0.5 s each, the next 10 take 0.4 s each
    assert result["seconds"] == 14.0
    assert result["iterations"] == 30
    assert result["losses"] == {"iteration": [19, 29], "total_loss": [2.0, 1.0]}
    assert result["config"] == run.config
    words = shlex.split(result["command"])
    assert words == ["python", "train_net.py", "--config-file", run.config, *run.opts]
    assert result["machine"]["cores"] == os.cpu_count()
    assert set(result["versions"]) >= {"torch", "detectron2", "fpn_d2"}
    assert result["commit"]
    assert json.loads(Path(run.folder, "run.json").read_text()) == result == run.result()


def test_a_finished_run_is_only_read(run, runner, calls, monkeypatch):
    first = runner.train(run)
    monkeypatch.setenv("FAKE_MODE", "bug")
    assert runner.train(run) == first
    assert len(calls()) == 1


def test_checkpoints_in_between_go_once_the_run_is_done(run, runner, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "bug")
    os.makedirs(run.folder)
    between = Path(run.folder, "model_0000009.pth")
    between.write_bytes(b"")
    with pytest.raises(UserError):
        runner.train(run)
    assert between.is_file()
    monkeypatch.setenv("FAKE_MODE", "")
    runner.train(run)
    assert [path.name for path in Path(run.folder).glob("*.pth")] == ["model_final.pth"]


def test_checkpoints_of_a_users_own_training_stay(run, runner):
    """A folder without settings.json was begun by train_net.py itself."""
    os.makedirs(run.folder)
    own = Path(run.folder, "model_0000009.pth")
    own.touch()
    Path(run.folder, "last_checkpoint").write_text(own.name)
    for _ in range(2):  # trained to its end, and read
        runner.train(run)
        assert own.is_file()


def test_a_training_cleans_its_folder_once_before_it_says_that_it_is_done(run, runner, monkeypatch):
    seen = []
    monkeypatch.setattr(
        runs, "_remove_intermediate_checkpoints", lambda run: seen.append(run.result())
    )
    result = runner.train(run)
    assert seen == [None]
    runner.train(run)
    assert seen == [None, result]


def test_proposals_are_written_once(run, runner, calls):
    result = runner.train_rpn(run)
    assert result == run.result()
    assert os.path.isfile(os.path.join(run.folder, "inference", "a", "box_proposals.pkl"))
    flags = ["--config-file", run.config, "--eval-only", "--dist-url", "auto", "--num-gpus", "2"]
    weights = ["MODEL.WEIGHTS", os.path.join(run.folder, "model_final.pth")]
    dataset = ["DATASETS.TEST", "('a',)"]
    assert calls()[1:] == [[*flags, *run.opts, *weights, *dataset, "OUTPUT_DIR", run.folder]]
    assert runner.train_rpn(run) == result
    assert len(calls()) == 2


def test_proposals_without_results_are_of_an_evaluation_that_was_cut(run, runner, calls):
    runner.train_rpn(run)
    Path(run.folder, "inference", "a", "results.json").unlink()
    runner.train_rpn(run)
    assert len(calls()) == 3


def test_everything_that_the_program_prints_is_kept(run, runner, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "bug")
    for _ in range(2):
        with pytest.raises(UserError):
            runner.train(run)
    text = Path(run.folder, "output.txt").read_text()
    assert text.count("ZeroDivisionError: a bug") == 2


# -- settings ----------------------------------------------------------------------------------


def changed(run, *opts):
    return Run(run.config, run.folder, (*run.opts, *opts))


def test_other_settings_are_refused_by_key_and_both_values(run, runner, calls, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "bug")
    with pytest.raises(UserError):
        runner.train(run)
    Path(run.folder, "last_checkpoint").write_text("model_0000009.pth")
    other = changed(run, "SOLVER.BASE_LR", "0.125", "SEED", "4")
    sentence = refusal(runner.train, other)
    assert run.folder in sentence
    assert "SOLVER.BASE_LR 0.02 there, 0.125 now" in sentence or "SEED 3 there, 4 now" in sentence
    assert "2 in all" in sentence
    assert len(calls()) == 1


def test_settings_that_were_refused_at_once_may_be_mended(run, runner, calls, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "refuse")
    with pytest.raises(UserError):
        runner.train(run)
    monkeypatch.delenv("FAKE_MODE")
    runner.train(changed(run, "SOLVER.BASE_LR", "0.125"))
    assert len(calls()) == 2


def test_a_finished_run_of_other_settings_is_refused_too(run, runner):
    runner.train(run)
    assert "SOLVER.BASE_LR" in refusal(runner.train, changed(run, "SOLVER.BASE_LR", "0.125"))


def test_what_decides_no_result_may_differ(run):
    cfg = run.load_config()
    check_settings(run.folder, cfg)
    Path(run.folder, "last_checkpoint").touch()
    others = {"DATALOADER.NUM_WORKERS": 3, "MODEL.DEVICE": "meta", "VIS_PERIOD": 7, "VERSION": 1}
    for key, value in others.items():
        assert config.flat(cfg)[key] != value
        check_settings(run.folder, config.changed(cfg, {key: value}))
    with pytest.raises(UserError, match=r"other settings \(SEED 3 there, 4 now"):
        check_settings(run.folder, config.changed(cfg, {"SEED": 4}))


def test_a_folder_may_be_moved(run, tmp_path):
    os.makedirs(run.folder)
    check_settings(run.folder, run.load_config())
    moved = Run(run.config, str(tmp_path / "moved"), run.opts)
    os.rename(run.folder, moved.folder)
    check_settings(moved.folder, moved.load_config())


def test_a_finished_run_may_have_read_from_folders_that_have_moved(run):
    def check(weights, proposals):
        keys = {"MODEL.WEIGHTS": weights, "DATASETS.PROPOSAL_FILES_TEST": (proposals,)}
        check_settings(run.folder, config.changed(run.load_config(), keys))

    check("a/start.pkl", "a/boxes.pkl")
    Path(run.folder, "run.json").touch()
    check("moved/start.pkl", "moved/boxes.pkl")
    with pytest.raises(UserError, match=r"MODEL.WEIGHTS start.pkl there, other.pkl now; 1 in all"):
        check("a/other.pkl", "a/boxes.pkl")


def test_a_runner_that_is_sent_leaves_its_progress_behind():
    sent = pickle.loads(pickle.dumps(Runner(FAKE, 2, on_progress=lambda *_: None)))
    assert (type(sent), sent.program, sent.num_gpus) == (Runner, FAKE, 2)
    sent.on_progress(None, 1, 2, None)


def test_the_schedule_is_that_of_the_runners_gpus(run):
    run = changed(run, "SOLVER.REFERENCE_WORLD_SIZE", "1")
    one, two = (Runner(FAKE, number).load_config(run).SOLVER for number in (0, 2))
    assert (one.MAX_ITER, two.MAX_ITER) == (30, 15)
    ratios = [two[key] / one[key] for key in ("IMS_PER_BATCH", "BASE_LR")]
    assert ratios == pytest.approx([2, 2])


def test_settings_of_the_version_before_are_understood(tmp_path):
    def settings_of(weights):
        return load_config("", ["MODEL.WEIGHTS", weights])  # without proposal files

    check_settings(str(tmp_path), settings_of("a/start.pkl"))
    path = tmp_path / "settings.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if "from this folder" not in k}
    old |= {f"DATASETS.PROPOSAL_FILES_{kind}": "[]" for kind in ("TRAIN", "TEST")}
    path.write_text(json.dumps(old))
    (tmp_path / "last_checkpoint").touch()
    check_settings(str(tmp_path), settings_of("a/start.pkl"))
    with pytest.raises(UserError, match="MODEL.WEIGHTS a/start.pkl there"):
        check_settings(str(tmp_path), settings_of(""))


def test_weights_may_be_on_another_drive(monkeypatch):
    monkeypatch.setattr(os.path, "relpath", ntpath.relpath)
    assert runs._setting("MODEL.WEIGHTS", r"D:\w\a.pkl", r"C:\runs") == r"D:\w\a.pkl"


def test_a_run_goes_on_from_another_working_folder(run, tmp_path, monkeypatch):
    def check(folder, start):
        own = Run(run.config, folder, (*run.opts, "MODEL.WEIGHTS", start))
        check_settings(folder, own.load_config())

    monkeypatch.chdir(tmp_path)
    check("runs/a", "runs/start.pkl")
    Path("runs/a/last_checkpoint").touch()
    check(str(tmp_path / "runs/a"), str(tmp_path / "runs/start.pkl"))
    monkeypatch.chdir(tmp_path / "runs")
    check("a", "start.pkl")
    for other in ("other.pkl", "a/start.pkl"):
        with pytest.raises(UserError, match=r"\(MODEL.WEIGHTS runs/start.pkl there"):
            check("a", other)


def test_a_key_of_a_later_version_is_no_difference(run):
    os.makedirs(run.folder)
    cfg = run.load_config()
    check_settings(run.folder, cfg)
    path = Path(run.folder, "settings.json")
    settings = json.loads(path.read_text())
    assert settings["SEED"] == "3"
    del settings["MODEL.FPN.FREEZE"]
    path.write_text(json.dumps(settings))
    check_settings(run.folder, cfg)


@pytest.mark.parametrize("unused, heads", [("0", "LevelROIHeads"), ("10", "TorchvisionROIHeads")])
def test_a_folder_of_version_0_1_goes_on_under_the_new_names(run, unused, heads):
    run = changed(run, "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES", unused)
    run = changed(run, "MODEL.ROI_HEADS.NAME", heads)
    cfg = run.load_config()
    check_settings(run.folder, cfg)
    path = Path(run.folder, "settings.json")
    new = {
        "MODEL.PROPOSAL_GENERATOR.NAME": "LeanRPN",
        "MODEL.RPN.HEAD_NAME": "build_level_rpn_head",
        "MODEL.ROI_HEADS.NAME": heads,
    }
    old = dict(zip(new, ["FPNRPN", "FPNRPNHead", "FPNROIHeads"], strict=True))
    settings = json.loads(path.read_text())
    assert {key: settings[key] for key in new} == new
    path.write_text(json.dumps({**settings, **old}))
    Path(run.folder, "last_checkpoint").write_text("model_0000009.pth")
    check_settings(run.folder, cfg)
    # A config that still has an old name fits the folder as well; one with another RPN does not.
    check_settings(
        run.folder, changed(run, "MODEL.PROPOSAL_GENERATOR.NAME", "FPNRPN").load_config()
    )
    other = changed(run, "MODEL.PROPOSAL_GENERATOR.NAME", "RPN").load_config()
    assert "MODEL.PROPOSAL_GENERATOR.NAME LeanRPN there" in refusal(
        check_settings, run.folder, other
    )


@pytest.mark.parametrize("name", ["settings.json", "run.json"])
def test_a_damaged_file_of_a_run_is_named(run, runner, name):
    os.makedirs(run.folder)
    path = Path(run.folder, name)
    path.write_text('{"SEED": "3", ')
    Path(run.folder, "last_checkpoint").write_text("model_0000009.pth")
    assert str(path) in refusal(runner.train, run)


# -- failures ----------------------------------------------------------------------------------


def test_the_programs_own_sentence_is_passed_on(run, runner, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "refuse")
    assert refusal(runner.train, run) == "set this to that"
    monkeypatch.setenv("FAKE_MODE", "bug")
    assert "set this to that" not in refusal(runner.train, run)


def test_only_the_last_sentence_of_code_2_is_the_programs(run, tmp_path):
    path = tmp_path / "output.txt"
    path.write_text("error: a library's\nerror: set this to that\n")
    assert runs._failure(run, 2, str(path), 0) == "set this to that"
    # A crash, and a later call that says nothing
    for code, start in ((1, 0), (2, path.stat().st_size)):
        sentence = runs._failure(run, code, str(path), start)
        assert f"{run.config} ended with exit code {code} in {run.folder}" in sentence


@pytest.mark.parametrize(
    "mode, says", [("bug", ["exit code 1", "{}/output.txt"]), ("silent", ["results of b", "{}"])]
)
def test_another_failure_names_the_output(run, runner, monkeypatch, mode, says):
    monkeypatch.setenv("FAKE_MODE", mode)
    sentence = refusal(runner.train, run)
    for words in says:
        assert words.format(run.folder) in sentence
    assert not os.path.exists(os.path.join(run.folder, "run.json"))
    assert run.result() is None


def test_a_failed_evaluation_is_told(run, runner, monkeypatch):
    runner.train(run)
    monkeypatch.setenv("FAKE_MODE", "bug")
    assert "output.txt" in refusal(runner.train_rpn, run)


# -- the numbers of a training -----------------------------------------------------------------


@pytest.fixture
def collected(run, runner, monkeypatch):
    """``collected(text)``: the result of a run whose metrics.json holds this text."""

    def collect(text):
        inference = Path(run.inference_folder("b"))
        inference.mkdir(parents=True)
        (inference / "results.json").write_text("{}")
        Path(run.folder, "metrics.json").write_text(text)
        monkeypatch.setenv("FAKE_MODE", "silent")
        return runner.train(run)

    return collect


def step(iteration, seconds, loss):
    return json.dumps({"iteration": iteration, "time": seconds, "total_loss": loss}) + "\n"


def test_iterations_that_a_resume_repeats_count_once(collected):
    # cut after 39 and resumed from the checkpoint at 19, so the second 39 counts; the line of the
    # evaluation is no step, and the last line is half a step
    first = step(19, 0.5, 3.0) + step(39, 9.0, 8.0)
    evaluation = json.dumps({"iteration": 50, "bbox/AP": 1.0}) + "\n"
    # a failed training writes its last values again, without their time
    again = json.dumps({"iteration": 49, "total_loss": 1.0}) + "\n"
    last = step(49, 0.54, 1.0) + evaluation + again + step(59, 0.25, 2.0)[:-9]
    result = collected(first + step(39, 0.25, 2.0) + last)
    assert result["seconds"] == 20.4  # 20 x 0.5 + 20 x 0.25 + 10 x 0.54
    assert result["losses"]["iteration"] == [19, 39, 49]
    assert result["losses"]["total_loss"] == [3.0, 2.0, 1.0]


def test_every_loss_is_kept_beside_its_iteration(collected):
    lines = [
        {"iteration": 0, "total_loss": 3.5, "loss_rpn_cls": 1.000004, "lr": 0.02, "time": 1.0},
        {"iteration": 1, "total_loss": 2.5, "loss_rpn_cls": 0.5, "lr": 0.02, "time": 1.0},
    ]
    losses = collected("".join(json.dumps(line) + "\n" for line in lines))["losses"]
    assert losses == {"iteration": [0, 1], "total_loss": [3.5, 2.5], "loss_rpn_cls": [1.0, 0.5]}


def test_a_run_without_steps_has_no_seconds(collected):
    result = collected("")
    assert (result["seconds"], result["losses"]) == (0.0, {"iteration": []})


# -- progress, locks and kills -----------------------------------------------------------------


def test_progress_is_told_while_it_trains(run, monkeypatch):
    monkeypatch.setattr(runs, "_TICK_SECONDS", 0.02)
    monkeypatch.setenv("FAKE_MODE", "hang")
    told = []

    def stop_at_20(*words):
        told.append(words)
        if words[1] == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(FAKE, on_progress=stop_at_20).train(run)
    assert told[0][1:] == (0, 30, None)
    assert told[-1] == (run, 20, 30, 9.0)  # eta_seconds of metrics.json


def test_ctrl_c_ends_the_program_too(run, monkeypatch):
    monkeypatch.setattr(runs, "_TICK_SECONDS", 0.02)
    monkeypatch.setenv("FAKE_MODE", "hang")
    started = Path(run.folder, "started")

    def interrupt(*_):
        if started.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(FAKE, on_progress=interrupt).train(run)
    assert is_gone(int(started.read_text()))
    assert "KeyboardInterrupt" in Path(run.folder, "output.txt").read_text()
    monkeypatch.setenv("FAKE_MODE", "")
    Runner(FAKE).train(run)  # the lock is free again


def is_gone(pid):
    """Whether there is no such process, or it has ended and waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def other(run, runner, monkeypatch):
    """Another process in the middle of training the run, and the process id of its program."""
    monkeypatch.setenv("FAKE_MODE", "hang")
    process = multiprocessing.get_context("fork").Process(target=runner.train, args=(run,))
    process.start()
    started = Path(run.folder, "started")
    try:
        wait_for(started.exists)
        yield process, int(started.read_text())
    finally:
        process.kill()
        process.join()
        wait_for(lambda: is_gone(int(started.read_text())))


def test_a_run_that_another_process_trains_is_busy(run, runner, calls, other, monkeypatch):
    monkeypatch.setattr(runs, "_LOCK_SECONDS", 0.1)
    sentence = refusal(runner.train, run, error=BusyError)
    assert run.folder in sentence
    assert run.folder in refusal(runner.train_rpn, run, error=BusyError)
    assert len(calls()) == 1


@LINUX
def test_the_program_ends_with_a_killed_parent_and_the_next_call_goes_on(
    run, runner, calls, other, monkeypatch
):
    process, program = other
    assert not is_gone(program)
    process.kill()
    process.join()
    monkeypatch.setenv("FAKE_MODE", "")
    result = runner.train(run)  # waits until the program has gone, and its lock with it
    assert is_gone(program)
    assert result["losses"]["iteration"] == [19, 29]
    assert "--resume" in calls()[1]


def test_an_orphan_keeps_the_lock(run, runner, calls, other, monkeypatch):
    """Where nothing ends it (outside Linux) and until it has ended, nobody trains beside it."""
    monkeypatch.setattr(runs, "_LOCK_SECONDS", 0.1)
    process, program = other
    os.kill(program, signal.SIGSTOP)  # so that it cannot end
    process.kill()
    process.join()
    try:
        refusal(runner.train, run, error=BusyError)
    finally:
        os.kill(program, signal.SIGCONT)
    assert len(calls()) == 1


def test_a_disk_without_locks_is_not_taken_for_another_process(tmp_path, monkeypatch):
    fault = portalocker.LockException(OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr(portalocker, "Lock", Mock(side_effect=fault))
    with (
        pytest.raises(UserError, match="cannot be locked .No locks available") as caught,
        runs.hold(str(tmp_path / ".lock"), 1.0, "busy"),
    ):
        pass
    assert not isinstance(caught.value, BusyError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_a_lock_that_another_process_holds_has_two_errors_in_posix(tmp_path, monkeypatch, number):
    fault = portalocker.LockException(OSError(number, os.strerror(number)))
    monkeypatch.setattr(portalocker, "Lock", Mock(side_effect=fault))
    with pytest.raises(BusyError, match="^busy$"), runs.hold(str(tmp_path / ".lock"), 1.0, "busy"):
        pass
