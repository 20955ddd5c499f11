"""Rows as jobs of submitit's own executors: one in this process, and Slurm's with fake commands;
tests/tools/test_reproduce.py has jobs in processes of their own."""

import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import portalocker
import pytest

from fpn_d2 import UserError
from fpn_d2.experiments import Cluster, campaign, cluster, reproduce, reproduction
from fpn_d2.experiments import results as results_module
from fpn_d2.experiments import runs as runs_module

submitit = pytest.importorskip("submitit")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(results_module, "write_report", lambda *_: None)
    monkeypatch.setattr(reproduction, "count_anchors", lambda *_, **__: 12)
    monkeypatch.setattr(cluster, "_POLL_SECONDS", 0)


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


@pytest.fixture
def clock(monkeypatch):
    """``clock(function)``: from then on fake cluster.py's time, in which a sleep takes ten seconds
    and calls the function."""

    def start(on_sleep):
        seconds = [0.0]

        def sleep(_):
            seconds[0] += 10
            on_sleep()

        def now():
            return seconds[0]

        fake = SimpleNamespace(sleep=sleep, monotonic=now, time=lambda: time.time() + now())
        monkeypatch.setattr(cluster, "time", fake)

    return start


@pytest.fixture
def cut(clock):
    """``cut(call, ...)``: make the call, and press Ctrl-C while it waits."""

    def run(call, *args, **options):
        clock(Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            call(*args, **options)

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


def test_a_job_trains_on_as_many_gpus_as_the_call_says(plan, runs, tmp_path, progress):
    plan = dataclasses.replace(plan, runner=runs_module.Runner(plan.runner.program, num_gpus=1))
    jobs = Cluster(("cluster=debug",), str(runs), 1, progress.say)
    reproduce(plan, "1", str(tmp_path / "results"), ["c"], [0], progress, (), jobs)
    (words,) = map(json.loads, (tmp_path / "log.txt").read_text().splitlines())
    assert words[words.index("--num-gpus") + 1] == "1"


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


def test_jobs_that_fail_leave_the_others_and_are_sent_again(call, progress, monkeypatch):
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


def test_boxes_and_times_are_measured_in_jobs(call, calls, monkeypatch, progress):
    call()
    call(boxes=(500,))
    counts = [call.get("MODEL.RPN.PRE_NMS_TOPK_TEST") for call in calls()]
    assert counts == [None, None, "500", "500"]
    monkeypatch.setattr(campaign, "time_rows", time_rows := Mock())
    call("time")
    assert [[*call.args[2]] for call in time_rows.call_args_list] == [["shared", "not_shared"]]
    assert progress.lines[-2].startswith("table time, running times: job DEBUG_")


def test_a_job_hands_back_what_its_function_returns_once_its_files_are_seen(
    tmp_path, progress, clock
):
    """For up to a minute, NFS hides from a machine a file that another has written."""
    file = tmp_path / "run.json"
    work = cluster.Work("it", str(tmp_path / "a"), "training", lambda: {"AP": 7}, (str(file),))
    jobs = Cluster(["cluster=debug"], str(tmp_path), 0, progress.say)
    ends = []
    clock(file.touch)
    jobs.run([work], lambda *end: ends.append(end))
    assert ends == [(work, {"AP": 7})]
    file.unlink()
    clock(lambda: None)
    jobs.run([work], lambda *end: ends.append(end))
    _, (ended, error) = ends
    assert ended == work
    assert isinstance(error, UserError)
    assert f"is done, but this machine does not see {file}; let all machines share" in str(error)


def test_a_row_is_told_although_its_result_is_not_seen(call, progress, monkeypatch):
    monkeypatch.setattr(runs_module, "read_result", lambda _: None)
    assert call() == {}
    told = [line for line in progress.lines if "AR1k 40.0 in " in line]
    assert [line.split(":")[0] for line in told] == [
        "table 1 (c) FPN, seed 0",
        "table 1 (d) bottom-up, seed 0",
    ]


def test_jobs_on_this_machine_are_not_said_to_go_on(tmp_path, progress, cut):
    work = cluster.Work("it", str(tmp_path / "a"), "training", lambda: time.sleep(0.5))
    jobs = Cluster(["cluster=local"], str(tmp_path), 0, progress.say)
    cut(jobs.run, [work], lambda *_: None)
    job = int(json.loads(Path(work.job_file).read_text())["job"])
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    assert progress.lines[1:] == [
        "jobs on this machine, which Ctrl-C ends as well: 1; the same command starts them again"
    ]


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
    """Fake Slurm commands. sbatch numbers its jobs from 71 on and keeps their scripts, at most as
    many as the file ``limit`` says. sacct gives each job the state in the file ``state``, or in its
    own file such as ``state_71``. squeue knows the jobs whose numbers are in ``queue``.
    """
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "srun": "",
        "sbatch": f"""
            n=$(($(ls {folder} | grep -c job_) + 71))
            if [ $n -ge $((71 + $(cat {folder}/limit))) ]; then
              echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1
            fi
            cp "$1" {folder}/job_$n
            echo Submitted batch job $n""",
        "sacct": f"""
            echo "JobID|State|NodeList"
            for n in $(ls {folder} | grep job_); do
              file={folder}/state_${{n#job_}}
              [ -f $file ] || file={folder}/state
              echo "${{n#job_}}|$(cat $file)|node1"
            done""",
        "squeue": f"""
            for n in "$@"; do :; done
            grep -x "$n" {folder}/queue && exit 0
            echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1""",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "limit").write_text("99")
    (folder / "queue").touch()
    if shutil.which("sh") is None:
        pytest.skip("its commands are shell scripts")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)
    monkeypatch.setattr(submitit.SlurmJob.watcher, "_delay_s", 0)
    submitit.SlurmJob.watcher.clear()
    return folder


def test_an_interrupted_call_finds_its_jobs_again(call, slurm, runs, progress, clock, cut):
    options = ["partition=gpu", "timeout_min=90", 'setup=["module load cuda"]']
    (slurm / "state").write_text("PENDING")
    cut(call, options=options)
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
    clock(lambda: (slurm / "state").write_text("NODE_FAIL"))
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


@pytest.fixture
def jobs(slurm, runs, progress):
    """``jobs(*works)``: run the works on the fake Slurm; return how each ended."""

    def run(*works):
        ends = {}

        def note(work, outcome):
            assert work not in ends
            ends[work] = outcome

        submitit.SlurmJob.watcher.clear()  # as in another process
        Cluster([], str(runs), 0, progress.say).run(works, note)
        return ends

    return run


def work_of(folder, key):
    return cluster.Work(f"row, {key}", str(folder), key, key.upper)


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "expected"),
    [
        (0, "RUNNING\n", "", True),
        (0, "\n", "", False),  # it has ended a moment ago
        (1, "", "slurm_load_jobs error: Invalid job id specified", False),
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller", True),
        (None, "", "", False),  # no such program
    ],
)
def test_a_job_waits_or_runs_unless_the_queue_says_that_it_does_not(
    monkeypatch, code, stdout, stderr, expected
):
    answer = SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)
    ask = Mock(return_value=answer, side_effect=FileNotFoundError if code is None else None)
    monkeypatch.setattr(cluster.subprocess, "run", ask)
    assert cluster._is_in_queue("71") == expected
    assert ask.call_args.args[0][-1] == "71"


def test_a_job_whose_time_is_up_is_sent_again_as_it_was():
    job = cluster.Job("abc".upper)
    again = job.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function is job
    assert again.function() == "ABC"


def test_what_would_write_the_same_files_is_not_done_at_once(tmp_path):
    first = work_of(tmp_path / "a", "boxes 500")
    assert first.excludes(work_of(tmp_path / "a", "boxes 1000"))
    assert not first.excludes(work_of(tmp_path / "b", "boxes 500"))
    files = tuple(str(tmp_path / name) for name in "xy")
    first, second = (
        dataclasses.replace(work_of(tmp_path / name, "training"), files=files) for name in "ab"
    )
    for path, is_missing in zip(files, (True, False), strict=True):
        Path(path).touch()  # what is there is only read
        assert first.excludes(second) == is_missing


def finish(slurm, runs, number):
    """End a job as submitit does, with what its function returns."""
    folder = runs / "jobs" / str(number)
    submission = submitit.core.utils.pickle_load(folder / f"{number}_submitted.pkl")
    with open(folder / f"{number}_0_result.pkl", "wb") as file:
        submitit.core.utils.cloudpickle.dump(("success", submission.function()), file)
    (slurm / f"state_{number}").write_text("COMPLETED")


def test_a_job_of_an_earlier_call_that_does_other_work_is_waited_for_and_not_taken(
    slurm, jobs, runs, progress, clock, cut
):
    """--boxes 500, Ctrl-C, and --boxes 1000 while the first job runs."""
    (slurm / "state").write_text("RUNNING")
    first, second = (work_of(runs / "a", f"boxes {count}") for count in (500, 1000))
    cut(jobs, first)

    def go_on():
        number = 72 if (slurm / "job_72").exists() else 71
        if number == 72:
            assert (slurm / "state_71").read_text() == "COMPLETED"
        finish(slurm, runs, number)

    clock(go_on)
    progress.lines.clear()
    assert jobs(second) == {second: "BOXES 1000"}
    assert progress.lines[0] == (
        "row, boxes 1000: job 71 of an earlier call, running, does boxes 500; this waits for it"
    )
    assert sorted(path.name for path in slurm.glob("job_*")) == ["job_71", "job_72"]
    # The same work is taken over.
    (slurm / "state_72").write_text("RUNNING")
    (runs / "jobs/72/72_0_result.pkl").unlink()
    assert jobs(second) == {second: "BOXES 1000"}
    assert not (slurm / "job_73").exists()


def test_the_keys_of_work_tell_counts_and_rows_apart(call, monkeypatch):
    monkeypatch.setattr(campaign, "time_rows", lambda *_: None)
    keys = []
    run = Cluster.run

    def listen(self, works, on_end):
        keys.append([(work.title, work.key) for work in works])
        return run(self, works, on_end)

    monkeypatch.setattr(Cluster, "run", listen)
    call()
    keys.clear()
    call(boxes=(1000, 500))
    call("time")
    (c, d), (timing,) = keys
    assert c[0] == "table 1 (c) FPN, seed 0, boxes before NMS: 500, 1000"
    assert c[1] == d[1] == "boxes before NMS: 500, 1000"
    assert timing[1] == "running times of table time: shared, not_shared"


def test_where_the_cluster_takes_no_more_jobs_the_others_wait_for_the_end_of_one(
    slurm, jobs, runs, progress, clock
):
    (slurm / "state").write_text("RUNNING")
    (slurm / "limit").write_text("1")
    works = [work_of(runs / name, name) for name in "abc"]
    turn = []

    def go_on():
        number = 70 + len(list(slurm.glob("job_*")))
        if not (runs / f"jobs/{number}/{number}_0_result.pkl").exists():
            finish(slurm, runs, number)  # while Slurm still counts it
        elif len(turn) < 9:
            turn.append(number)
        else:
            (slurm / "limit").write_text(str(number - 69))

    clock(go_on)
    assert jobs(*works) == {work: work.key.upper() for work in works}
    waits = [line for line in progress.lines if "it waits until a job has ended" in line]
    assert [line[:6] for line in waits] == ["row, b", "row, c"]  # each once
    assert "QOSMaxSubmitJobPerUserLimit" in waits[0]
    assert sorted(path.name for path in slurm.glob("job_*")) == ["job_71", "job_72", "job_73"]

    (slurm / "limit").write_text("0")
    with pytest.raises(UserError, match="could not be sent as a job: .*QOSMaxSubmit"):
        jobs(work_of(runs / "d", "d"))  # nothing is under way


def test_a_job_that_the_accounts_do_not_know_is_not_sent_twice(
    slurm, jobs, runs, progress, clock, cut
):
    (slurm / "state").write_text("")  # sacct's UNKNOWN
    work = work_of(runs / "a", "training")
    cut(jobs, work)
    assert "--time=1440" in (slurm / "job_71").read_text()  # a day, where submitit says 5 minutes

    cut(jobs, work)  # sent a moment ago
    hour_ago = time.time() - 3600
    os.utime(work.job_file, (hour_ago, hour_ago))
    (slurm / "queue").write_text("71\n")
    cut(jobs, work)  # the queue has it
    assert [path.name for path in slurm.glob("job_*")] == ["job_71"]
    assert progress.lines.count("row, training: job 71 of an earlier call, unknown") == 2

    # It leaves the queue without a result.
    clock(lambda: (slurm / "queue").write_text(""))
    (error,) = jobs(work).values()
    assert str(error).startswith("job 71 has ended without a result (unknown); ")
    cut(jobs, work)
    assert (slurm / "job_72").exists()
