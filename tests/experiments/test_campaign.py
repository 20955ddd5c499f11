"""One call of tools/reproduce.py: what it picks, trains, skips and says, and what it writes."""

import dataclasses
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import portalocker
import pytest

from fpn_d2 import UserError
from fpn_d2.experiments import Progress, Scale, campaign, reproduce, reproduction
from fpn_d2.experiments import results as results_module
from fpn_d2.experiments import runs as runs_module
from fpn_d2.experiments.campaign import pick_rows
from fpn_d2.experiments.cluster import Work
from fpn_d2.experiments.report import write_report
from fpn_d2.experiments.results import collect, update_results
from fpn_d2.experiments.tables import Claim

HERE = {"commit": "aaa", "machine": {"cores": 2}, "versions": {"torch": "2"}}
ELSEWHERE = {"commit": "bbb", "machine": {"cores": 64}, "versions": {"torch": "2"}}
RPN = "rpn_R_18_FPN"


@pytest.fixture
def call(plan, tmp_path, progress):
    """``call(table, rows, seeds)``: the content of the file that the call wrote."""

    def run(table="1", rows=(), seeds=(0,), plan=plan):
        path = reproduce(plan, table, str(tmp_path / "results"), rows, seeds, progress)
        return json.loads(Path(path).read_text())

    return run


def recalls(content):
    return {
        (row["row"], seed["seed"]): seed["metrics"]["AR1k"]
        for row in content["rows"]
        for seed in row["seeds"]
    }


@pytest.fixture(autouse=True)
def _report(monkeypatch):
    """Leave out the page and the count of anchors, which take a second and have other tests."""
    monkeypatch.setattr(results_module, "write_report", lambda *_: None)
    monkeypatch.setattr(reproduction, "count_anchors", lambda *_, **__: 12)


def test_all_rows_of_the_scale_are_trained_seed_by_seed(call, calls):
    content = call(seeds=(0, 2))
    assert recalls(content) == {("c", 0): 40, ("c", 2): 42, ("d", 0): 40, ("d", 2): 42}
    order = [(call["config"], call["SEED"]) for call in calls()]
    other = "rpn_R_18_bottom_up"
    assert order == [(RPN, "0"), (other, "0"), (RPN, "2"), (other, "2")]


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


def test_the_results_are_written_after_every_row(call, tmp_path, monkeypatch):
    """A table that is cut in its last row keeps all rows before it."""
    seen = []
    train = runs_module.Runner.train

    def look_first(runner, run):
        path = tmp_path / "results/shapes/table1.json"
        seen.append(recalls(json.loads(path.read_text())) if path.exists() else None)
        return train(runner, run)

    monkeypatch.setattr(runs_module.Runner, "train", look_first)
    call()
    assert seen == [None, {("c", 0): 40}]


def test_a_row_is_told_when_it_begins_and_when_it_ends(call, progress):
    call(rows=["c"], seeds=(1,))
    assert progress.lines[1] == "table 1 (c) FPN, seed 1: 1 of 1"
    assert progress.lines[2].startswith("table 1 (c) FPN, seed 1: anchors 12, AR1k 41.0 in ")
    assert "table1.json" in progress.lines[-1]


def test_a_run_of_another_process_is_skipped_and_named(call, runs, progress, monkeypatch):
    monkeypatch.setattr(runs_module, "_LOCK_SECONDS", 0.05)
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
    assert (progress.rows_left, len(progress.seconds)) == (1, 1)  # row c took no time
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
    stop = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "os", SimpleNamespace(**{**vars(os), "remove": stop}))
        with pytest.raises(KeyboardInterrupt):
            call(rows=["c"])
    folder = runs / f"shapes/quick/RPN/{RPN}/seed_0"
    assert (folder / "model_0000019.pth").is_file()
    call(rows=["c"])
    assert [path.name for path in folder.glob("*.pth")] == ["model_final.pth"]


def test_a_file_of_another_scale_is_refused_before_any_training(call, calls, file):
    path = file([], scale="paper")
    with pytest.raises(
        UserError, match=f"^{re.escape(str(path))} is of scale paper, not quick; .* --output"
    ):
        call()
    assert calls() == []


def test_a_file_of_another_recipe_is_refused_before_any_training(call, calls, file, plan, tables):
    path = file([{"row": "c", "seeds": [entry(0, 50.0)]}])
    frozen = Scale("shapes", opts=["MODEL.BACKBONE.FREEZE_AT", "2"])
    plan = dataclasses.replace(plan, tables=dataclasses.replace(tables, scales={"quick": frozen}))
    with pytest.raises(
        UserError, match=f"^{re.escape(str(path))} is of another recipe .* --output"
    ):
        call(plan=plan)
    assert calls() == []
    os.remove(path)
    content = call(plan=plan, rows=["c"])
    assert content["recipe"] == {"opts": "MODEL.BACKBONE.FREEZE_AT 2"}
    assert calls()[0]["MODEL.BACKBONE.FREEZE_AT"] == "2"
    assert len({content["code"]}) == 1
    assert not any("code" in seed for row in content["rows"] for seed in row["seeds"])


def test_a_time_table_is_timed_and_not_trained(call, calls, monkeypatch, progress):
    timed = []

    def time_rows(reproduction, table, rows, say):
        timed.append((table.table, list(rows), say == progress.say))
        os.makedirs(reproduction.folder)

    monkeypatch.setattr(campaign, "time_rows", time_rows)
    assert call("time")["rows"] == []
    assert timed == [("time", ["shared", "not_shared"], True)]
    assert calls() == []


def test_every_trained_row_is_timed_and_none_while_another_process_trains(
    call, runs, tables, monkeypatch
):
    table = dataclasses.replace(tables.table("1"), metrics=["AR1k", "seconds"])
    monkeypatch.setitem(tables.tables, "1", table)
    monkeypatch.setattr(runs_module, "_LOCK_SECONDS", 0.05)
    monkeypatch.setattr(campaign, "time_rows", time_rows := Mock())
    call(rows=["c"])
    call(rows=["d"])
    timed = [[*call.args[2]] for call in time_rows.call_args_list]
    assert timed == [["c"], ["c", "d"]]  # the seconds of a table are measured side by side
    folder = runs / f"shapes/quick/RPN/{RPN}/seed_1"
    folder.mkdir(parents=True)
    with portalocker.Lock(folder / ".lock"):
        call(seeds=(1,))
    assert len(timed) == 2


def test_the_results_name_no_folder_of_the_machine(call, tmp_path):
    for table, rows in (("1", []), ("2", []), ("5", ["not_shared"])):
        call(table, rows)
        assert str(tmp_path) not in (tmp_path / f"results/shapes/table{table}.json").read_text()


# -- the rows that are picked ------------------------------------------------------------------


def test_rows_are_picked_in_the_tables_order(tables):
    table = tables.table("1")
    assert list(pick_rows(table, "quick", [])) == ["c", "d"]
    assert list(pick_rows(table, "paper", [])) == ["p"]
    assert list(pick_rows(table, "quick", ["d", "c"])) == ["c", "d"]
    assert list(pick_rows(table, "quick", ["d"])) == ["d"]


@pytest.mark.parametrize("name", ["z", "p", ""])
def test_a_row_that_the_scale_has_not_is_refused(tables, name):
    sentence = f"^table 1 has no row {name} at scale quick; there are c, d$"
    with pytest.raises(UserError, match=sentence):
        pick_rows(tables.table("1"), "quick", ["c", name])
    with pytest.raises(UserError, match="table 2 has no row at scale paper; give another --scale"):
        pick_rows(tables.table("2"), "paper", [])


def test_a_part_of_the_rows_that_are_timed_side_by_side_is_refused(tables):
    table = tables.table("time")
    assert list(pick_rows(table, "quick", ["not_shared", "shared"])) == ["shared", "not_shared"]
    with pytest.raises(UserError, match="--rows shared: .* timed side by side, .* leave --rows"):
        pick_rows(table, "quick", ["shared"])


# -- progress ----------------------------------------------------------------------------------


def test_the_time_left_is_the_rows_left_times_their_mean():
    with Progress() as progress:
        progress.rows_left = 3
        assert progress.time_left() == ""
        progress.seconds += [100, 300]
        assert progress.time_left() == "about 10 min left"  # 3 x 200 s
        progress.rows_left = 0
        assert progress.time_left() == ""


def test_the_time_left_is_that_of_the_same_kind_of_work(progress):
    progress.seconds.append(3600)  # of a training
    works = [Work(f"boxes {n}", "folder", "boxes", lambda: None) for n in range(2)]
    ended = []
    campaign.run_in_turn(progress, works, lambda *end: ended.append(end))
    assert ended == [(work, None) for work in works]
    assert progress.lines == ["boxes 0: 1 of 2", "boxes 1: 2 of 2, about 0 min left"]


def test_the_line_of_boxes_names_their_numbers(plan, runs, tmp_path, progress, monkeypatch):
    words = (plan, "1", str(tmp_path / "results"), ["c"], [0], progress)
    reproduce(*words, boxes=[1000, 500])
    assert "table 1 (c) FPN, seed 0, boxes before NMS: 500, 1000: 1 of 1" in progress.lines
    elsewhere = "1 rows are trained elsewhere; call again when they are done"
    assert elsewhere not in progress.lines
    monkeypatch.setattr(runs_module, "_LOCK_SECONDS", 0.05)
    with portalocker.Lock(runs / f"shapes/quick/RPN/{RPN}/seed_0/boxes_500/.lock"):
        reproduce(*words, boxes=[500])
    assert elsewhere in progress.lines


def test_the_bar_shows_run_iterations_and_time():
    with Progress() as progress:
        run = runs_module.Run("a.yaml", "runs/a/seed_0")
        progress(run, 20, 30, 90.0)
        assert (progress._bar.n, progress._bar.total) == (20, 30)
        progress(run, 0, 30, None)
        assert (progress._bar.n, progress._bar.total) == (0, 30)


# -- results: this machine's runs, and what else the file has ----------------------------------


@pytest.fixture
def done(plan, tables, monkeypatch):
    """``done(row, seed, AR, **provenance)``: make a finished run of table 1 by hand."""
    monkeypatch.setattr(results_module, "provenance", HERE.copy)

    def make(name, seed, recall, **origin):
        folder = Path(plan.run(tables.table("1").rows[name], seed).folder)
        folder.mkdir(parents=True)
        content = {
            "seconds": 60.0,
            "iterations": 300,
            "results": {"shapes_val": {"box_proposals": {"AR@1000": recall, "ARs@1000": None}}},
            "losses": {"iteration": [19], "total_loss": [1.0]},
            **{**HERE, **origin},
        }
        (folder / "run.json").write_text(json.dumps(content))

    return make


@pytest.fixture
def path(tmp_path):
    """Where a call writes table 1."""
    return tmp_path / "results/shapes/table1.json"


@pytest.fixture
def file(path):
    """``file(rows)``: write table1.json as an earlier call on another machine did; its path."""
    path.parent.mkdir(parents=True)

    def write(rows, **changed):
        head = {"table": "1", "scale": "quick", "dataset": "shapes", **ELSEWHERE, **changed}
        path.write_text(json.dumps({**head, "rows": rows}))
        return str(path)

    return write


def entry(seed, recall, **more):
    numbers = {"seconds": 1.0, "iterations": 300, "metrics": {"AR1k": recall}, "losses": {}}
    return {"seed": seed, **numbers, **more}


def test_runs_are_gathered_by_row_and_seed(plan, tables, done, tmp_path):
    done("d", 0, 30.5)
    done("c", 10, 41.25)
    done("c", 2, 40.0)
    content = collect(plan, tables.table("1"), str(tmp_path / "none.json"))
    assert (content["table"], content["scale"], content["dataset"]) == ("1", "quick", "shapes")
    numbers = [(("c", 2), 40.0), (("c", 10), 41.25), (("d", 0), 30.5)]
    assert list(recalls(content).items()) == numbers
    seed = content["rows"][0]["seeds"][0]
    assert seed["metrics"] == {"AR1k": 40.0, "AR1k_s": None, "anchors": 12}
    assert (seed["seconds"], seed["iterations"]) == (60.0, 300)
    assert seed["losses"] == {"iteration": [19], "total_loss": [1.0]}
    assert content["rows"][0]["config"].endswith("configs/quick/RPN/rpn_R_18_FPN.yaml")
    assert content["rows"][0]["command"].endswith("SEED 2")


def test_a_table_without_runs_has_no_rows(plan, tables, done, tmp_path):
    content = collect(plan, tables.table("1"), str(tmp_path / "none.json"))
    assert content["rows"] == []
    assert {key: content[key] for key in HERE} == HERE


# -- provenance --------------------------------------------------------------------------------


def test_a_run_tells_what_is_different_and_most_decide(plan, tables, done, tmp_path):
    done("c", 0, 40.0, **ELSEWHERE)
    done("c", 1, 41.0)
    done("d", 0, 30.0)
    content = collect(plan, tables.table("1"), str(tmp_path / "none.json"))
    assert {key: content[key] for key in HERE} == HERE  # two of three
    (first, second), (third,) = (row["seeds"] for row in content["rows"])
    own = {key: value for key, value in first.items() if key in HERE}
    assert own == {"commit": "bbb", "machine": {"cores": 64}}  # its versions are the file's
    assert not HERE.keys() & (second.keys() | third.keys())


# -- merging -----------------------------------------------------------------------------------


def test_what_the_file_has_from_elsewhere_is_kept_with_its_origin(plan, tables, done, file):
    rows = [{"row": "c", "seeds": [entry(0, 50.0), entry(1, 51.0, commit="ccc")]}]
    path = file([*rows, {"row": "d", "seeds": [entry(7, 30.0)]}])
    done("c", 1, 41.0)  # this machine's run of the same seed counts
    done("c", 2, 42.0)
    content = collect(plan, tables.table("1"), path)
    numbers = {("c", 0): 50.0, ("c", 1): 41.0, ("c", 2): 42.0, ("d", 7): 30.0}
    assert recalls(content) == numbers
    commits = {
        (row["row"], seed["seed"]): seed.get("commit", content["commit"])
        for row in content["rows"]
        for seed in row["seeds"]
    }
    assert commits == {("c", 0): "bbb", ("c", 1): "aaa", ("c", 2): "aaa", ("d", 7): "bbb"}
    assert content["rows"][1]["command"].endswith("SEED 7")
    Path(path).write_text(json.dumps(content))
    assert collect(plan, tables.table("1"), path) == content


def test_a_seed_of_before_the_code_was_hashed_gets_no_other_ones_hash(plan, tables, done, file):
    path = file([{"row": "c", "seeds": [entry(0, 50.0)]}])
    content = json.loads(Path(path).read_text())
    content.pop("code", None)
    Path(path).write_text(json.dumps(content))
    done("c", 1, 41.0, code="ddd")
    done("c", 2, 41.0, code="ddd")
    for _ in range(2):  # the next call reads what this one has written
        content = collect(plan, tables.table("1"), path)
        codes = [seed.get("code", content.get("code")) for seed in content["rows"][0]["seeds"]]
        assert codes == [None, "ddd", "ddd"]
        Path(path).write_text(json.dumps(content))


def test_rows_of_another_file_of_tables_are_kept(plan, tables, done, file):
    path = file([{"row": "c_heads", "seeds": [entry(0, 50.0)]}])
    done("c", 0, 40.0)
    content = collect(plan, tables.table("1"), path)
    assert recalls(content) == {("c", 0): 40.0, ("c_heads", 0): 50.0}


@pytest.mark.parametrize(
    "text",
    ["", '{"table": "1", "rows": [', "\x00", "{}", "[]", "null", '{"scale": "quick", "rows": []}'],
)
def test_a_damaged_file_is_named_and_kept(plan, tables, done, file, path, text):
    file([])
    path.write_text(text)
    done("c", 0, 40.0)
    with pytest.raises(UserError, match=re.escape(str(path))):
        update_results(plan, tables.table("1"), str(path))
    assert path.read_text() == text


# -- writing -----------------------------------------------------------------------------------


def test_json_markdown_and_page_are_written(plan, tables, done, path, monkeypatch):
    monkeypatch.setattr(results_module, "write_report", write_report)
    done("c", 0, 40.0)
    update_results(plan, tables.table("1"), str(path))
    assert recalls(json.loads(path.read_text())) == {("c", 0): 40.0}
    names = {p.name for p in path.parent.iterdir() if p.is_file()}
    assert names >= {"table1.json", "table1.md", "table1.html"}
    assert not any("partial" in name for name in names)
    assert "40.0" in path.with_suffix(".md").read_text()


def table_with_a_claim(tables):
    claim = Claim(claim="(c) finds more", metric="AR1k", order=[["c"], ["d"]])
    return dataclasses.replace(tables.table("1"), claims=[claim])


def test_runs_without_their_predictions_are_reported_without_examples(
    plan, tables, done, path, monkeypatch
):
    monkeypatch.setattr(results_module, "write_report", write_report)
    done("c", 0, 40.0)  # copied from another machine
    done("d", 0, 30.0)
    update_results(plan, table_with_a_claim(tables), str(path))
    assert "30.0" in path.with_suffix(".md").read_text()


def test_examples_compare_rows_of_one_seed(plan, tables, done, path, monkeypatch):
    monkeypatch.setattr(results_module, "find_examples", find := Mock(return_value=[]))
    expected = {}
    for name, seed in (("c", 0), ("c", 1), ("d", 0), ("d", 1)):
        done(name, seed, 40.0)
        run = plan.run(tables.table("1").rows[name], seed)
        folder = Path(run.inference_folder("shapes_val"))
        if (name, seed) != ("d", 0):
            folder.mkdir(parents=True)
            (folder / "box_proposals.pkl").touch()
        if seed == 1:
            expected[name] = str(folder)
    update_results(plan, table_with_a_claim(tables), str(path))
    assert [call.args[0] for call in find.call_args_list] == [expected]


def test_an_error_in_the_report_leaves_the_numbers(plan, tables, done, path, monkeypatch):
    done("c", 0, 40.0)
    monkeypatch.setattr(results_module, "write_report", Mock(side_effect=RuntimeError))
    with pytest.raises(RuntimeError):
        update_results(plan, tables.table("1"), str(path))
    assert recalls(json.loads(path.read_text())) == {("c", 0): 40.0}


def write_timing(plan, row, timing, origin):
    folder = Path(plan.timing_folder(row))
    folder.mkdir(parents=True, exist_ok=True)
    results = {"shapes_val": {"timing": timing}}
    content = {"seconds": 4.0, "iterations": 8, "results": results, "losses": {}}
    (folder / "run.json").write_text(json.dumps({**content, **origin}))


def test_a_time_table_takes_what_was_timed(plan, tables, done, tmp_path):
    table = tables.table("time")
    timing = {"seconds": 0.5, "slowest": 0.75, "fastest": 0.25, "trained": False}
    write_timing(plan, table.rows["shared"], timing, HERE)
    (row,) = collect(plan, table, str(tmp_path / "none.json"))["rows"]
    assert row["row"] == "shared"
    assert row["seeds"][0]["metrics"] == {"seconds": 0.5, "slowest": 0.75, "fastest": 0.25}


def test_seconds_stand_at_the_seed_and_the_machine_that_were_timed(plan, tables, done):
    table = dataclasses.replace(tables.table("1"), metrics=["AR1k", "seconds"])
    row = table.rows["c"]
    for seed in (0, 1):
        done("c", seed, 40.0)
    write_timing(plan, row, {"seconds": 0.5}, ELSEWHERE)

    def seconds():
        entries = plan.entries(table, row)
        timed = {seed: entry["timed_on"] for seed, entry in entries.items() if "timed_on" in entry}
        return {seed: entry["metrics"]["seconds"] for seed, entry in entries.items()}, timed

    assert seconds() == ({0: 0.5, 1: None}, {0: ELSEWHERE["machine"]})
    Path(plan.run(row, 1).weights).touch()  # seed 0's are not here
    assert seconds() == ({0: None, 1: 0.5}, {1: ELSEWHERE["machine"]})
    write_timing(plan, row, {"seconds": 0.5}, HERE)
    assert seconds()[1] == {}


def test_an_output_that_cannot_be_made_is_refused_before_any_training(call, calls, tmp_path):
    (tmp_path / "results").write_text("a file and no folder")
    with pytest.raises(UserError, match="name another --output"):
        call()
    assert not calls()


def test_runs_that_cannot_be_kept_are_refused_before_any_training(call, calls, plan, tmp_path):
    (tmp_path / "file").write_text("a file and no folder")
    with pytest.raises(UserError, match="could not be written .* another"):
        call(plan=dataclasses.replace(plan, folder=str(tmp_path / "file" / "runs")))
    assert not calls()
