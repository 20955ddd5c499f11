"""The benchmark's command line, with tasks that take no time."""

import importlib.util
import json
import re
import sys

import pytest
import torch
from benchmark import program
from benchmark.contest import Timing, make_row


@pytest.fixture
def call(repo, monkeypatch):
    """``call(*words)``: the tool with two tasks of one row each, in one process."""
    spec = importlib.util.spec_from_file_location("benchmark_tool", repo / "tools/benchmark.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def pooling():
        """Not called."""

    def rows():
        """Not called."""

    def run_task(task, device, rounds):
        assert device == "cpu"
        seconds = {"ours": 1.0, "detectron2": 2.0}
        timings = {name: Timing(s, s, s, rounds, None) for name, s in seconds.items()}
        return [make_row(task.__name__, "fp32 inference", timings, None)]

    monkeypatch.setattr(program, "TASKS", {"pooling": (pooling, 1), "rows": (rows, 2)})
    monkeypatch.setattr(program, "run_task", run_task)
    monkeypatch.setattr(program, "profile_detectors", lambda *_: "| operator | fp32 |")
    monkeypatch.setattr(program, "keep_freed_memory", lambda: True)  # or all later tests keep it

    def run(*words):
        words = ["benchmark.py", "--device", "cpu", *map(str, words)]
        monkeypatch.setattr(sys, "argv", words)
        tool.main()

    return run


@pytest.mark.parametrize(
    ("words", "tasks"),
    [
        ([], ["pooling"]),
        (["--rows"], ["pooling", "rows"]),
        (["--tasks", "rows"], ["rows"]),
        (["--tasks", "--rows"], ["rows"]),
        (["--tasks"], []),
    ],
)
def test_the_tasks_that_are_asked_for(words, tasks, call, tmp_path, capsys):
    path = tmp_path / "new" / "benchmark.json"
    call(*words, "--rounds", 3, "--json", path)
    rows = json.loads(path.read_text())
    assert [(row["task"], row["rounds"]) for row in rows] == [
        (task, {"pooling": 3, "rows": 6}[task]) for task in tasks
    ]
    for row in rows:  # each says where it comes from
        assert row["threads"] == torch.get_num_threads()
        assert "GiB" in row["machine"]
        assert f"torch {torch.__version__}" in row["versions"]
        assert row["commit"]
    printed = capsys.readouterr().out
    assert "commit: " in printed
    assert "operator" not in printed


def test_the_profile_is_printed_where_it_is_asked_for(call, capsys):
    call("--tasks", "--profile")
    assert "| operator | fp32 |" in capsys.readouterr().out


def test_growth_has_a_line_for_each_point_and_a_picture(call, monkeypatch, tmp_path, capsys):
    def measure_growth(device, rounds, minutes, series):
        assert (device, rounds, minutes) == ("cpu", 2, 7.5)
        assert {one.axis for one in series} == {"processes", "side"}
        assert max(len(one.values) for one in series) == 3
        for value in (1, 2):
            yield {
                "task": "growth", "axis": "processes", "value": value, "row": "faster",
                "way": "training", "seconds": [3.0 / value], "baseline_seconds": [4.0],
                "peak_mib": 10, "baseline_peak_mib": 20, "found": None, "baseline_found": None,
                "alternated": True, "left_out": {"ours": "", "detectron2": ""},
            }  # fmt: skip

    monkeypatch.setattr(program, "measure_growth", measure_growth)
    path = tmp_path / "growth.json"
    words = ("--axes", "processes", "side", "--minutes", 7.5)
    call("--tasks", "growth", "--quick", *words, "--json", path)
    rows = json.loads(path.read_text())
    assert [(row["value"], row["seconds"]) for row in rows] == [(1, [3.0]), (2, [1.5])]
    assert all("GiB" in row["machine"] for row in rows)
    assert "<svg" in (tmp_path / "growth.svg").read_text()
    printed = capsys.readouterr().out
    assert "processes 2, faster, training: ours 1.5 s, 10 MiB; detectron2 4 s, 20 MiB\n" in printed
    assert re.search(r"\| processes .* -1\.00 / 0\.00 +\| holds ", printed)


@pytest.mark.parametrize(
    "words", [["--rounds", 0], ["--minutes", 0], ["--device", "tpu"], ["--tasks", "linear"]]
)
def test_what_cannot_be_timed_is_refused(words, call, capsys):
    with pytest.raises(SystemExit):
        call(*words)
    assert "error: " in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named_before_the_work(call, tmp_path, capsys):
    (tmp_path / "file").write_text("a file and no folder")
    with pytest.raises(SystemExit):
        call("--json", tmp_path / "file" / "new.json")
    captured = capsys.readouterr()
    assert "new.json could not be written" in captured.err
    assert "pooling:" not in captured.out
    with pytest.raises(SystemExit):
        call("--json", tmp_path)
    captured = capsys.readouterr()
    assert "could not be written" in captured.err
    assert "pooling:" not in captured.out


def test_what_agreement_cannot_compare_is_refused_before_the_work(call, repo, capsys):
    with pytest.raises(SystemExit):
        call("--agreement", repo / "configs/quick/RPN/rpn_R_18_FPN.yaml", "model.pth")
    captured = capsys.readouterr()
    assert "is no Faster R-CNN" in captured.err
    assert "pooling:" not in captured.out


def test_measurements_of_an_earlier_call_are_kept(call, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text('[{"task": "inference"}]')
    with pytest.raises(SystemExit):
        call("--json", path)
    assert "add --force" in capsys.readouterr().err
    assert json.loads(path.read_text()) == [{"task": "inference"}]
    call("--json", path, "--force")
    assert json.loads(path.read_text())[0]["task"] == "pooling"


def test_a_call_that_was_cut_before_its_first_row_can_be_repeated(call, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("[]\n")
    call("--json", path)
    assert json.loads(path.read_text())[0]["task"] == "pooling"
