"""tools/reproduce.py: its words, its sentences, and what a kill costs."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import reproduce
import yaml
from waiting import wait_for

from fpn_d2.experiments import results as results_module

ROOT = Path(__file__).resolve().parents[2]


def tables_of(dataset: str) -> dict:
    """Return the content of a tables file: table 1, with two rows on the data set of this name."""
    rows = {
        name: {"name": f"row {name}", "configs": {"quick": config}}
        for name, config in (("c", "mine/rpn_c.yaml"), ("d", "mine/rpn_d.yaml"))
    }
    return {
        "metrics": {"AR100": "box_proposals/AR@100"},
        "scales": {"quick": {"dataset": dataset}},
        "tables": {"1": {"title": "RPN", "metrics": ["AR100"], "rows": rows}},
    }


@pytest.fixture
def project(tmp_path):
    """A user's folder with a table of two rows, whose configs build on the shipped ones; the
    networks are narrow (as by narrow_words)."""
    (tmp_path / "mine").mkdir()
    for name, row in (("c", "rpn_R_18_FPN"), ("d", "rpn_R_18_bottom_up")):
        config = {
            "_BASE_": str(ROOT / f"configs/quick/RPN/{row}.yaml"),
            "DATASETS": {"TRAIN": ["tiny_train"], "TEST": ["tiny_val"]},
            "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64},
            "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 24, "CHECKPOINT_PERIOD": 4, "STEPS": []},
            "DATALOADER": {"NUM_WORKERS": 0},
            "MODEL": {
                "DEVICE": "cpu",
                "RESNETS": {"DEPTH": 50, "RES2_OUT_CHANNELS": 16},
                "FPN": {"OUT_CHANNELS": 32},
            },
        }
        (tmp_path / f"mine/rpn_{name}.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(tables_of("tiny")))
    return tmp_path


def recalls(project):
    content = json.loads((project / "results/tiny/table1.json").read_text())
    return {
        (row["row"], seed["seed"]): seed["metrics"]["AR100"]
        for row in content["rows"]
        for seed in row["seeds"]
    }


# -- in this process, with a program that trains nothing ---------------------------------------


@pytest.fixture
def call(project, monkeypatch, run_tool):
    """``call(word, ...)``: the tool's exit code, stdout and stderr."""
    shutil.copy(ROOT / "tests/fake_train_net.py", project / "train_net.py")
    monkeypatch.setattr(reproduce, "script", lambda name: str(project / name))
    monkeypatch.setattr(results_module, "write_report", lambda *_: None)
    monkeypatch.chdir(project)
    monkeypatch.setenv("FAKE_LOG", str(project / "log"))

    words = ("--table", "1", "--tables", "tables.yaml", "--runs", "runs")
    return functools.partial(run_tool, reproduce, *words)


def fake_configs(project):
    log = project / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [Path(json.loads(line)[1]).stem for line in lines]


@pytest.fixture
def _shapes(project):
    """The fake program evaluates the data set that its words name, so no config names one."""
    for path in (project / "mine").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        del content["DATASETS"]
        path.write_text(yaml.safe_dump(content))
    (project / "tables.yaml").write_text(yaml.safe_dump(tables_of("shapes")))


@pytest.mark.usefixtures("_shapes")
def test_rows_seeds_and_output_of_the_command_line(call, project):
    code, stdout, stderr = call("--rows", "d", "--seeds", "0,2,0", "--output", "elsewhere")
    assert (code, stderr) == (0, "")
    (row,) = json.loads((project / "elsewhere/shapes/table1.json").read_text())["rows"]
    assert not (project / "results").exists()
    assert [(seed["seed"], seed["metrics"]["AR100"]) for seed in row["seeds"]] == [(0, 20), (2, 22)]
    assert fake_configs(project) == ["rpn_d", "rpn_d"]
    assert "table1.json" in stdout


@pytest.mark.parametrize(
    "words, says",
    [
        (["--table", "9"], "no table 9; there are 1"),
        (["--scale", "huge"], "no scale huge; there are quick"),
        (["--rows", "c,z"], "no row z at scale quick; there are c, d"),
        (["--seeds", "a"], "--seeds a "),
        (["--seeds", "0,-1"], "--seeds 0,-1 "),
        (["--seeds", ""], "whole numbers"),
        (["--boxes", "0"], "--boxes 0 is not a list of whole numbers from 1 on, such as 1000,6000"),
        (["--start", "nowhere.pth"], "--start nowhere.pth: there is no such file"),
        (["--start", "crops"], "scale quick says no config"),
        (["--dataset", "nothing"], "nothing_train"),
        (["--tables", "nowhere.yaml"], "nowhere.yaml"),
        (["--slurm", "gpu"], "--slurm gpu is not of the form KEY=VALUE, such as partition=gpu"),
    ],
)
def test_a_mistake_gets_one_sentence(call, project, refused, words, says):
    assert says in refused(*call.args, *words)
    assert fake_configs(project) == []
    assert not (project / "results").exists()


def test_a_failed_training_ends_with_its_sentence(call, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "refuse")
    code, _, stderr = call()
    assert (code, stderr) == (2, "error: set this to that\n")


def test_the_shipped_tables_are_the_default(refused):
    assert "configs/tables.yaml has no table nine" in refused(reproduce, "--table", "nine")


# -- real processes ----------------------------------------------------------------------------


@pytest.fixture
def start(project, tiny_environment):
    """``start()``: start the tool in a process of its own; the end of the test kills it."""
    processes = []

    def run(*words):
        line = [sys.executable, str(ROOT / "tools/reproduce.py"), "--table", "1", *words]
        line += ["--tables", "tables.yaml", "--runs", "runs"]
        with open(project / "stdout.txt", "a") as file:
            process = subprocess.Popen(
                line, cwd=project, env=tiny_environment, stdout=file, stderr=file
            )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def wait_for_file(path, process):
    wait_for(lambda: path.exists() or process.poll() is not None)
    assert path.exists(), "it has ended"


def assert_it_went_on(folder):
    """Check that a run began once, and went on after a kill from model_0000007 or a later one."""
    lines = (folder / "output.txt").read_text().splitlines()
    starts = [int(line.split()[-1]) for line in lines if "Starting training from iter" in line]
    assert starts[0] == 0
    assert starts[-1] >= 8  # model_0000007 was saved after 8 iterations


def children(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_kill_in_a_training_and_one_in_the_report_cost_no_result(project, start):
    # in the middle of the first row's training
    process = start()
    folder = project / "runs/tiny/mine/rpn_c/seed_0"
    wait_for_file(folder / "model_0000007.pth", process)
    (program,) = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not os.path.exists(f"/proc/{program}"), seconds=10)
    assert not (folder / "run.json").exists()
    assert not (project / "results/tiny/table1.json").exists()

    # once the first row is trained, before its report is complete
    process = start()
    wait_for_file(folder / "run.json", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (project / "results/tiny/table1.html").exists()
    assert_it_went_on(folder)
    trained = (folder / "run.json").read_text()

    # the next call goes on to the end
    process = start()
    assert process.wait(timeout=600) == 0, (project / "stdout.txt").read_text()
    assert (folder / "run.json").read_text() == trained
    expected = {}
    for name in ("c", "d"):
        path = project / f"runs/tiny/mine/rpn_{name}/seed_0/inference/tiny_val/results.json"
        expected[name, 0] = json.loads(path.read_text())["box_proposals"]["AR@100"]
    assert recalls(project) == pytest.approx(expected, abs=6e-4)
    assert all(
        (run / "model_final.pth").is_file() for run in (project / "runs/tiny/mine").glob("*/*")
    )
    assert not list(project.glob("results/**/*.partial"))
    for end in ("md", "html"):
        assert (project / f"results/tiny/table1.{end}").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_job_that_is_killed_is_sent_again_and_goes_on(project, start):
    pytest.importorskip("submitit")
    words = ("--slurm", "cluster=local")
    process = start(*words)
    folder = project / "runs/tiny/mine/rpn_c/seed_0"
    wait_for_file(folder / "model_0000007.pth", process)
    job = json.loads((folder / "job.json").read_text())["job"]
    (task,) = children(job)
    for pid in (job, task):
        os.kill(int(pid), signal.SIGKILL)
    assert process.wait(timeout=600) == 2
    said = (project / "stdout.txt").read_text().splitlines()
    assert said[-1].startswith(f"error: job {job} has ended without a result (interrupted); ")
    assert said[-1].endswith(" says more, and the same command sends it again")
    assert not (folder / "run.json").exists()
    assert recalls(project).keys() == {("d", 0)}  # the other job was left alone
    other = (project / "runs/tiny/mine/rpn_d/seed_0/run.json").read_text()

    process = start(*words)
    assert process.wait(timeout=600) == 0, (project / "stdout.txt").read_text()
    assert_it_went_on(folder)
    assert recalls(project).keys() == {("c", 0), ("d", 0)}
    assert (project / "runs/tiny/mine/rpn_d/seed_0/run.json").read_text() == other
