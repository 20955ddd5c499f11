"""Rows as jobs: submitit's own executors, one in this process and Slurm's with commands that
pretend; tests/tools/test_reproduce.py has jobs in processes of their own."""

import dataclasses
import json
import shutil
import sys
from types import SimpleNamespace

import portalocker
import pytest

from fpn_d2 import UserError
from fpn_d2.experiments import Cluster, Progress, campaign, cluster, reproduce, reproduction
from fpn_d2.experiments import results as results_module
from fpn_d2.experiments import runs as runs_module

submitit = pytest.importorskip("submitit")


class Told(Progress):
    """Keeps what it says."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(results_module, "write_report", lambda *_: None)
    monkeypatch.setattr(reproduction, "count_anchors", lambda *_: 12)
    monkeypatch.setattr(cluster, "_POLL_SECONDS", 0)


@pytest.fixture
def progress():
    with Told() as progress:
        yield progress


@pytest.fixture
def call(plan, runs, tmp_path, progress):
    """``call(table, seeds, options)``: AR1k or AP in the results file by row and seed."""

    def run(table="1", seeds=(0,), options=("cluster=debug",), boxes=()):
        jobs = Cluster(options, str(runs), 0, progress.say)
        results = str(tmp_path / "results")
        path = reproduce(plan, table, results, (), seeds, progress, boxes, jobs)
        with open(path) as file:
            rows = json.load(file)["rows"]
        return {
            (row["row"], seed["seed"]): seed["metrics"].get("AR1k", seed["metrics"].get("AP"))
            for row in rows
            for seed in row["seeds"]
        }

    return run


def events(lines):
    """Each job's row and whether it is sent or has ended, in order."""
    return [
        (line.split(")")[0].split("(")[1], "sent" if ": job " in line else "ended")
        for line in lines
        if line.startswith("table") and "(" in line
    ]


def test_each_seed_of_a_row_is_a_job(call, calls, progress, runs):
    assert call(seeds=(0, 2)) == {("c", 0): 40, ("c", 2): 42, ("d", 0): 40, ("d", 2): 42}
    assert sorted((call["config"], call["SEED"]) for call in calls()) == [
        ("rpn_R_18_FPN", "0"),
        ("rpn_R_18_FPN", "2"),
        ("rpn_R_18_bottom_up", "0"),
        ("rpn_R_18_bottom_up", "2"),
    ]
    rows = ["c", "d", "c", "d"]
    assert events(progress.lines) == [(row, what) for what in ("sent", "ended") for row in rows]
    sent = json.loads((runs / "shapes/quick/RPN/rpn_R_18_FPN/seed_2/job.json").read_text())
    assert sent["cluster"] == "debug"
    progress.lines.clear()
    assert len(call(seeds=(0, 2))) == 4
    assert progress.lines[0] == "table 1: 4 of 4 rows are done"
    assert len(calls()) == 4


def test_rows_that_share_a_training_are_sent_one_after_the_other(
    call, calls, progress, tables, monkeypatch
):
    """Both rows read the proposals of one RPN."""
    rows = tables.tables["2"].rows
    other = {"quick": "quick/Fast-RCNN/fast_rcnn_R_18_bottom_up.yaml"}
    row = dataclasses.replace(rows["c"], name="bottom-up", configs=other)
    monkeypatch.setitem(rows, "b", row)
    assert call("2", seeds=(0, 1)) == {("c", 0): 30, ("c", 1): 31, ("b", 0): 30, ("b", 1): 31}
    assert events(progress.lines) == [
        (row, what) for row in "cb" for what in ("sent", "ended") for _ in range(2)
    ]
    trained = [call["OUTPUT_DIR"] for call in calls() if call["flag"] == "--resume"]
    assert len(trained) == len(set(trained)) == 6


def test_jobs_that_fail_leave_the_others_and_are_sent_again(call, calls, progress, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "refuse")
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == "set this to that (2 jobs failed in all)"
    assert [line for line in progress.lines if line.endswith("failed: set this to that")] == [
        "table 1 (c) FPN, seed 0: failed: set this to that",
        "table 1 (d) bottom-up, seed 0: failed: set this to that",
    ]
    monkeypatch.delenv("FAKE_MODE")
    assert call() == {("c", 0): 40, ("d", 0): 40}


def test_a_run_that_another_process_trains_is_skipped(call, runs, progress, monkeypatch):
    monkeypatch.setattr(runs_module, "_LOCK_SECONDS", 0.05)
    folder = runs / "shapes/quick/RPN/rpn_R_18_FPN/seed_0"
    folder.mkdir(parents=True)
    with portalocker.Lock(folder / ".lock"):
        assert call() == {("d", 0): 40}
    assert "1 rows are trained elsewhere; call again when they are done" in progress.lines
    assert call() == {("c", 0): 40, ("d", 0): 40}


def test_boxes_and_times_are_measured_in_jobs(call, calls, monkeypatch, progress, plan):
    call()
    call(boxes=(500,))
    counts = [call.get("MODEL.RPN.PRE_NMS_TOPK_TEST") for call in calls()]
    assert counts == [None, None, "500", "500"]
    timed = []
    monkeypatch.setattr(campaign, "time_rows", lambda plan, table, rows, _: timed.append([*rows]))
    call("time")
    assert timed == [["shared", "not_shared"]]
    assert progress.lines[-2].startswith("table time, running times: job DEBUG_")


@pytest.mark.parametrize(
    "options, says",
    [
        (["gpu"], "--slurm gpu is not of the form KEY=VALUE, such as partition=gpu"),
        (["=3"], "--slurm =3 is not of the form KEY=VALUE"),
        (["a b=3"], "--slurm a b=3 is not of the form KEY=VALUE"),
        (["nodes=2"], "--slurm nodes=2: a job trains one run on one machine"),
        (["gpus_per_node=8"], r"gpus_per_node=8: .*\(0\); give --num-gpus as many"),
        (["partion=gpu"], "Unknown argument 'partion' for executor 'slurm'"),
        (["timeout_min=soon"], '"timeout_min" expected type'),
        (["cluster=cloud"], "doesn't know any executor named cloud"),
    ],
)
def test_an_option_that_cannot_be_is_a_sentence(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        Cluster(["cluster=local", *options], str(tmp_path), 0, print)
    assert not list(tmp_path.rglob("*.*"))


def test_a_machine_without_submitit_or_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r'--slurm  cannot work: Could not detect "srun"'):
        Cluster([], str(tmp_path), 0, print)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'not installed .*pip install "fpn_d2\[slurm\]"'):
        Cluster([], str(tmp_path), 0, print)


# --- Slurm


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of Slurm's names: sbatch counts its jobs from 71 on and keeps their scripts, sacct
    says of all what the file ``state`` holds."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "srun": "",
        "sbatch": f"""
            n=$(($(ls {folder} | grep -c job_) + 71))
            cp "$1" {folder}/job_$n
            echo Submitted batch job $n""",
        "sacct": f"""
            echo "JobID|State|NodeList"
            for n in $(ls {folder} | grep job_); do
              echo "${{n#job_}}|$(cat {folder}/state)|node1"
            done""",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)
    monkeypatch.setattr(submitit.SlurmJob.watcher, "_delay_s", 0)
    submitit.SlurmJob.watcher.clear()
    return folder


def test_an_interrupted_call_finds_its_jobs_again(call, slurm, runs, progress, monkeypatch):
    if shutil.which("sh") is None:
        pytest.skip("its commands are shell scripts")

    def interrupt(_):
        raise KeyboardInterrupt

    options = ["partition=gpu", "timeout_min=90", 'setup=["module load cuda"]']
    (slurm / "state").write_text("PENDING")
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "time", SimpleNamespace(sleep=interrupt))
        with pytest.raises(KeyboardInterrupt):
            call(options=options)
    assert progress.lines[-1] == "jobs that go on: 2; the same command waits for them"
    script = (slurm / "job_71").read_text()
    for words in (
        "--partition=gpu",
        "--time=90",
        "--job-name='table 1 (c) FPN, seed 0'",
        "module load cuda",
        f"--output={runs}/jobs/%j/",
    ):
        assert words in script

    # The second call waits for the same jobs, which are killed meanwhile.
    progress.lines.clear()
    with monkeypatch.context() as patch:
        fail = SimpleNamespace(sleep=lambda _: (slurm / "state").write_text("NODE_FAIL"))
        patch.setattr(cluster, "time", fail)
        with pytest.raises(UserError) as error:
            call(options=options)
    earlier = "table 1 (c) FPN, seed 0: job 71 of an earlier call, pending"
    assert earlier in progress.lines
    assert str(error.value).startswith("job 71 has ended without a result (node_fail); ")
    assert str(error.value).endswith(", and the same command sends it again (2 jobs failed in all)")
    assert sorted(path.name for path in slurm.glob("job_*")) == ["job_71", "job_72"]

    # The third sends them again.
    with pytest.raises(UserError, match="job 73 has ended"):
        call(options=options)
    assert (slurm / "job_74").exists()
