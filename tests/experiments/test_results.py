"""A table's results: from this machine's runs and from what the file has beside."""

import json
import platform
from pathlib import Path

import pytest

from fpn_d2 import UserError
from fpn_d2.experiments import provenance, results
from fpn_d2.experiments.results import collect, results_file, update_results

HERE = {"commit": "aaa", "machine": {"cores": 2}, "versions": {"torch": "2"}}
ELSEWHERE = {"commit": "bbb", "machine": {"cores": 64}, "versions": {"torch": "2"}}


@pytest.fixture
def done(plan, tables, monkeypatch):
    """``done(row, seed, AR, **provenance)``: a finished run of table 1, made by hand."""
    for name, key in (
        ("git_commit", "commit"),
        ("describe_machine", "machine"),
        ("describe_versions", "versions"),
    ):
        monkeypatch.setattr(results, name, lambda key=key: HERE[key])

    def make(name, seed, recall, **origin):
        folder = Path(plan.trainable(tables.table("1").rows[name], seed).folder)
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
def file(tmp_path, tables):
    """``file(rows)``: a table1.json that an earlier call, on another machine, has written."""
    path = Path(results_file(str(tmp_path / "results"), "shapes", tables.table("1")))
    path.parent.mkdir(parents=True)

    def write(rows, **changed):
        head = {"table": "1", "scale": "quick", "dataset": "shapes", **ELSEWHERE, **changed}
        path.write_text(json.dumps({**head, "rows": rows}))
        return str(path)

    return write


def entry(seed, recall, **more):
    metrics = {"AR1k": recall}
    return {
        "seed": seed,
        "seconds": 1.0,
        "iterations": 300,
        "metrics": metrics,
        "losses": {},
        **more,
    }


def recalls(content):
    return {
        (row["row"], seed["seed"]): seed["metrics"]["AR1k"]
        for row in content["rows"]
        for seed in row["seeds"]
    }


def test_a_table_has_a_file_of_its_own_for_each_data_set(tables):
    path = results_file("out", "nuclei", tables.table("1"))
    assert path == "out/nuclei/table1.json"


def test_runs_are_gathered_by_row_and_seed(plan, tables, done, tmp_path):
    done("d", 0, 30.5)
    done("c", 10, 41.25)
    done("c", 2, 40.0)
    content = collect(plan, tables.table("1"), str(tmp_path / "none.json"))
    assert (content["table"], content["scale"], content["dataset"]) == ("1", "quick", "shapes")
    assert list(recalls(content).items()) == [
        (("c", 2), 40.0),
        (("c", 10), 41.25),
        (("d", 0), 30.5),
    ]
    seed = content["rows"][0]["seeds"][0]
    # P2..P6, three each: see test_reproduction
    assert seed["metrics"] == {"AR1k": 40.0, "AR1k_s": None, "anchors": 199974}
    assert (seed["seconds"], seed["iterations"]) == (60.0, 300)
    assert seed["losses"] == {"iteration": [19], "total_loss": [1.0]}
    assert content["rows"][0]["config"].endswith("configs/quick/RPN/rpn_R_18_FPN.yaml")
    assert content["rows"][0]["command"].endswith("SEED 2")


def test_a_table_without_runs_has_no_rows(plan, tables, done, tmp_path):
    content = collect(plan, tables.table("1"), str(tmp_path / "none.json"))
    assert content["rows"] == []
    assert {key: content[key] for key in HERE} == HERE


# -- provenance --------------------------------------------------------------------------------


def test_what_all_runs_have_in_common_is_said_once(plan, tables, done, tmp_path):
    for seed in range(3):
        done("c", seed, 40.0)
    content = collect(plan, tables.table("1"), str(tmp_path / "none.json"))
    assert {key: content[key] for key in HERE} == HERE
    assert not any(HERE.keys() & seed.keys() for seed in content["rows"][0]["seeds"])


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
    done("c", 1, 41.0)  # the same seed was trained here, too: it counts
    done("c", 2, 42.0)
    content = collect(plan, tables.table("1"), path)
    assert recalls(content) == {
        ("c", 0): 50.0,
        ("c", 1): 41.0,
        ("c", 2): 42.0,
        ("d", 7): 30.0,
    }
    commits = {
        (row["row"], seed["seed"]): seed.get("commit", content["commit"])
        for row in content["rows"]
        for seed in row["seeds"]
    }
    assert commits == {("c", 0): "bbb", ("c", 1): "aaa", ("c", 2): "aaa", ("d", 7): "bbb"}
    assert content["rows"][1]["command"].endswith("SEED 7")


def test_gathering_twice_changes_nothing(plan, tables, done, file, monkeypatch):
    path = file([{"row": "c", "seeds": [entry(0, 50.0), entry(1, 51.0, commit="ccc")]}])
    done("d", 2, 42.0)
    first = collect(plan, tables.table("1"), path)
    Path(path).write_text(json.dumps(first))
    assert collect(plan, tables.table("1"), path) == first


def test_rows_of_another_file_of_tables_are_kept(plan, tables, done, file):
    path = file([{"row": "c_heads", "seeds": [entry(0, 50.0)]}])
    done("c", 0, 40.0)
    content = collect(plan, tables.table("1"), path)
    assert recalls(content) == {("c", 0): 40.0, ("c_heads", 0): 50.0}


def test_a_file_of_another_scale_is_refused(plan, tables, done, file):
    path = file([{"row": "c", "seeds": [entry(0, 50.0)]}], scale="paper")
    with pytest.raises(UserError) as error:
        collect(plan, tables.table("1"), path)
    for words in (path, "scale paper", "not quick", "--output"):
        assert words in str(error.value)


@pytest.mark.parametrize("text", ["", '{"table": "1", "rows": [', "\x00"])
def test_a_damaged_file_is_named_and_kept(plan, tables, done, file, tmp_path, text):
    path = file([])
    Path(path).write_text(text)
    done("c", 0, 40.0)
    with pytest.raises(UserError) as error:
        update_results(plan, tables.table("1"), str(tmp_path / "results"))
    assert path in str(error.value)
    assert Path(path).read_text() == text


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"scale": "quick", "rows": []}'])
def test_a_file_of_something_else_is_named(plan, tables, done, file, text):
    path = file([])
    Path(path).write_text(text)
    with pytest.raises(UserError, match="table1.json"):
        collect(plan, tables.table("1"), path)


# -- writing -----------------------------------------------------------------------------------


def test_json_markdown_and_page_are_written(plan, tables, done, tmp_path):
    done("c", 0, 40.0)
    path = update_results(plan, tables.table("1"), str(tmp_path / "results"))
    assert path == str(tmp_path / "results/shapes/table1.json")
    assert recalls(json.loads(Path(path).read_text())) == {("c", 0): 40.0}
    names = {p.name for p in Path(path).parent.iterdir() if p.is_file()}
    assert names >= {"table1.json", "table1.md", "table1.html"}
    assert not any("partial" in name for name in names)
    assert "40.0" in Path(path).with_suffix(".md").read_text()


def test_an_error_in_the_report_leaves_the_numbers(plan, tables, done, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError

    done("c", 0, 40.0)
    monkeypatch.setattr(results, "write_report", fail)
    with pytest.raises(RuntimeError):
        update_results(plan, tables.table("1"), str(tmp_path / "results"))
    path = tmp_path / "results/shapes/table1.json"
    assert recalls(json.loads(path.read_text())) == {("c", 0): 40.0}


def test_a_time_table_takes_what_was_timed(plan, tables, done, tmp_path):
    table = tables.table("time")
    folder = Path(plan.timing_folder(table.rows["shared"]))
    folder.mkdir(parents=True)
    timing = {"timing": {"seconds": 0.5, "slowest": 0.75, "fastest": 0.25, "trained": False}}
    content = {"seconds": 4.0, "iterations": 8, "results": {"shapes_val": timing}, "losses": {}}
    (folder / "run.json").write_text(json.dumps({**content, **HERE}))
    (row,) = collect(plan, table, str(tmp_path / "none.json"))["rows"]
    assert row["row"] == "shared"
    assert row["seeds"][0]["metrics"] == {"seconds": 0.5, "slowest": 0.75, "fastest": 0.25}


# -- where numbers come from -------------------------------------------------------------------


def test_a_commit_with_changes_is_marked(tmp_path):
    def git(*words):
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        provenance._git(tmp_path, *options, *words)

    assert provenance.git_commit(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    commit = provenance.git_commit(tmp_path)
    assert provenance._git(tmp_path, "rev-parse", "HEAD").startswith(commit)
    (tmp_path / "b").write_text("no file of the repository")
    assert provenance.git_commit(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert provenance.git_commit(tmp_path) == f"{commit}+"


def test_a_machine_is_described_without_its_name():
    text = json.dumps(provenance.describe_machine())
    assert set(json.loads(text)) == {"processor", "instructions", "cores", "memory_gib", "gpus"}
    assert platform.node() not in text
