"""One call of the one command: what is trained in which order, what is skipped and what is said."""

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import portalocker
import pytest

from fpn_d2 import UserError
from fpn_d2.experiments import Progress, reproduce, reproduction, results, session
from fpn_d2.experiments import runs as engine_runs

RPN = "rpn_R_18_FPN"


class Told(Progress):
    """A progress that keeps what it says."""

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
def call(plan, tmp_path, progress):
    """``call(table, rows, seeds)``: the content of the file that it wrote."""

    def run(table="1", rows=(), seeds=(0,), plan=plan):
        path = reproduce(plan, table, str(tmp_path / "results"), rows, seeds, progress)
        return json.loads(Path(path).read_text())

    return run


def recalls(content, metric="AR1k"):
    return {
        (row["row"], seed["seed"]): seed["metrics"][metric]
        for row in content["rows"]
        for seed in row["seeds"]
    }


@pytest.fixture(autouse=True)
def _report(monkeypatch):
    """The page and the count of anchors are other tests', and take a second."""
    monkeypatch.setattr(results, "write_report", lambda *_: None)
    monkeypatch.setattr(reproduction, "count_anchors", lambda *_: 12)


def test_all_rows_of_the_scale_are_trained_seed_by_seed(call, calls):
    content = call(seeds=(0, 2))
    assert recalls(content) == {("c", 0): 40, ("c", 2): 42, ("d", 0): 40, ("d", 2): 42}
    order = [(call["config"], call["SEED"]) for call in calls()]
    other = "rpn_R_18_bottom_up"
    assert order == [(RPN, "0"), (other, "0"), (RPN, "2"), (other, "2")]


def test_only_the_rows_that_are_asked_for_are_trained(call, calls):
    assert recalls(call(rows=["d"])) == {("d", 0): 40}
    assert len(calls()) == 1


def test_a_second_call_trains_nothing_and_reports_all(call, calls, progress):
    first = call()
    progress.lines.clear()
    assert call() == first
    assert len(calls()) == 2
    assert progress.lines[0] == "table 1: 2 of 2 rows are done"


def test_another_call_adds_to_the_file(call, progress):
    call(rows=["c"])
    progress.lines.clear()
    assert recalls(call(rows=["d"], seeds=(1,))) == {("c", 0): 40, ("d", 1): 41}
    assert progress.lines[0] == "table 1: 0 of 1 rows are done"


def test_the_results_are_written_after_every_row(call, tmp_path, monkeypatch, calls):
    """So a table that is cut in its last row has all others."""
    seen = []
    train = engine_runs.Runner.train

    def look_first(runner, run):
        path = tmp_path / "results/shapes/table1.json"
        seen.append(recalls(json.loads(path.read_text())) if path.exists() else None)
        return train(runner, run)

    monkeypatch.setattr(engine_runs.Runner, "train", look_first)
    call()
    assert seen == [None, {("c", 0): 40}]


def test_a_row_is_told_when_it_begins_and_when_it_ends(call, progress):
    call(rows=["c"], seeds=(1,))
    assert progress.lines[1] == "table 1 (c) FPN, seed 1: 1 of 1"
    assert progress.lines[2].startswith("table 1 (c) FPN, seed 1: anchors 12, AR1k 41.0 in ")
    assert "table1.json" in progress.lines[-1]


def test_a_run_of_another_process_is_skipped_and_named(call, calls, runs, progress, monkeypatch):
    monkeypatch.setattr(engine_runs, "_LOCK_SECONDS", 0.05)
    folder = runs / f"shapes/quick/RPN/{RPN}/seed_0"
    folder.mkdir(parents=True)
    with portalocker.Lock(folder / ".lock"):
        content = call()
    assert recalls(content) == {("d", 0): 40}
    skipped = [line for line in progress.lines if "skipped" in line]
    assert len(skipped) == 1
    assert skipped[0].startswith("table 1 (c) FPN, seed 0: skipped")
    assert str(folder) in skipped[0]
    assert any(line.startswith("1 rows are trained elsewhere") for line in progress.lines)
    assert recalls(call()) == {("c", 0): 40, ("d", 0): 40}


def test_a_failed_training_ends_the_call_and_keeps_the_rows_before(call, tmp_path, monkeypatch):
    call(rows=["c"])
    monkeypatch.setenv("FAKE_MODE", "refuse")
    with pytest.raises(UserError, match="set this to that"):
        call()
    path = tmp_path / "results/shapes/table1.json"
    assert recalls(json.loads(path.read_text())) == {("c", 0): 40}
    monkeypatch.delenv("FAKE_MODE")
    assert recalls(call()) == {("c", 0): 40, ("d", 0): 40}


def test_a_kill_while_checkpoints_are_removed_leaves_none_for_ever(call, runs, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine_runs, "os", SimpleNamespace(**{**vars(os), "remove": stop}))
        with pytest.raises(KeyboardInterrupt):
            call(rows=["c"])
    folder = runs / f"shapes/quick/RPN/{RPN}/seed_0"
    assert (folder / "model_0000019.pth").is_file()
    call(rows=["c"])
    assert [path.name for path in folder.glob("*.pth")] == ["model_final.pth"]


@pytest.mark.parametrize(
    "table, rows, says",
    [("9", [], "no table 9; there are 1, 2, 5, time"), ("1", ["z"], "no row z at scale quick")],
)
def test_what_is_not_there_is_refused_before_any_training(call, calls, table, rows, says):
    with pytest.raises(UserError, match=says):
        call(table, rows)
    assert calls() == []


def test_a_file_of_another_scale_is_refused_before_any_training(call, calls, tmp_path):
    path = tmp_path / "results/shapes/table1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"scale": "paper", "rows": []}))
    with pytest.raises(UserError, match="is of scale paper"):
        call()
    assert calls() == []


def test_a_table_without_rows_at_the_scale_is_told(call, plan, tables, calls):
    with pytest.raises(UserError, match="no row"):
        call(plan=dataclasses.replace(plan, scale="paper"), table="2")


def test_a_time_table_is_timed_and_not_trained(call, calls, monkeypatch, plan, progress):
    timed = []

    def time_rows(reproduction, table, rows, say):
        timed.append((table.table, list(rows), say == progress.say))
        os.makedirs(reproduction.folder)

    monkeypatch.setattr(session, "time_rows", time_rows)
    assert call("time", ["shared"])["rows"] == []
    # one row is asked for, but what is not measured side by side cannot be compared
    assert timed == [("time", ["shared", "not_shared"], True)]
    assert calls() == []


# -- progress ----------------------------------------------------------------------------------


def test_the_time_left_is_the_rows_left_times_their_mean():
    with Progress() as progress:
        progress.expect(5)
        assert progress.time_left() == ""
        progress.finish(100)
        progress.finish(300)
        assert progress.time_left() == "about 10 min left for 3 rows"  # 3 x 200 s
        for _ in range(3):
            progress.finish(100)
        assert progress.time_left() == ""


def test_a_skipped_row_is_not_left(call, runs, progress, monkeypatch):
    monkeypatch.setattr(engine_runs, "_LOCK_SECONDS", 0.05)
    folder = runs / f"shapes/quick/RPN/{RPN}/seed_0"
    folder.mkdir(parents=True)
    with portalocker.Lock(folder / ".lock"):
        call()
    assert progress.time_left() == ""


def test_the_bar_shows_run_iterations_and_time(monkeypatch):
    with Progress() as progress:
        run = engine_runs.Run("a.yaml", "runs/a/seed_0")
        progress(run, 20, 30, 90.0)
        assert (progress._bar.n, progress._bar.total) == (20, 30)
        progress(run, 0, 30, None)
        assert (progress._bar.n, progress._bar.total) == (0, 30)
