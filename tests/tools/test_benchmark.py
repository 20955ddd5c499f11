"""The benchmark's command line, with tasks that take no time."""

import importlib.util
import json
import os
import re
from unittest.mock import Mock

import pytest
import torch
from benchmark import program
from benchmark.contest import Timing, make_row


@pytest.fixture
def command(repo, monkeypatch):
    """The tool, with two tasks of one row each in one process, and its first words."""
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
    return tool, "--device", "cpu"


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
def test_the_tasks_that_are_asked_for(words, tasks, command, printed, tmp_path):
    path = tmp_path / "new" / "benchmark.json"
    stdout = printed(*command, *words, "--rounds", 3, "--json", path)
    rows = json.loads(path.read_text())
    assert [(row["task"], row["rounds"]) for row in rows] == [
        (task, {"pooling": 3, "rows": 6}[task]) for task in tasks
    ]
    for row in rows:  # each says where it comes from
        assert row["threads"] == torch.get_num_threads()
        assert "GiB" in row["machine"]
        assert f"torch {torch.__version__}" in row["versions"]
        assert row["commit"]
    assert "commit: " in stdout
    assert "operator" not in stdout


def test_the_profile_is_printed_where_it_is_asked_for(command, printed):
    assert "| operator | fp32 |" in printed(*command, "--tasks", "--profile")


def test_growth_has_a_line_for_each_point_and_a_picture(command, printed, monkeypatch, tmp_path):
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
    stdout = printed(*command, "--tasks", "growth", "--quick", *words, "--json", path)
    rows = json.loads(path.read_text())
    assert [(row["value"], row["seconds"]) for row in rows] == [(1, [3.0]), (2, [1.5])]
    assert all("GiB" in row["machine"] for row in rows)
    assert "<svg" in (tmp_path / "growth.svg").read_text()
    assert "processes 2, faster, training: ours 1.5 s, 10 MiB; detectron2 4 s, 20 MiB\n" in stdout
    assert re.search(r"\| processes .* -1\.00 / 0\.00 +\| holds ", stdout)


@pytest.mark.parametrize(
    "words", [["--rounds", 0], ["--minutes", 0], ["--device", "tpu"], ["--tasks", "linear"]]
)
def test_what_cannot_be_timed_is_refused(words, command, run_tool):
    code, _, stderr = run_tool(*command, *words)
    assert (code, "error: " in stderr) == (2, True)


def test_a_file_that_cannot_be_written_is_named_before_the_work(command, run_tool, tmp_path):
    (tmp_path / "file").write_text("a file and no folder")
    os.mkfifo(tmp_path / "pipe")  # as /dev/null, which a file would replace
    for name, fault in (
        ("file/new.json", "could not be written"),
        ("", "a folder"),
        ("pipe", "a pipe"),
    ):
        code, stdout, stderr = run_tool(*command, "--json", tmp_path / name)
        assert (code, stdout) == (2, "")
        assert fault in stderr
    assert (tmp_path / "pipe").is_fifo()


def test_what_is_measured_is_kept_when_nobody_reads_what_is_printed(
    command, monkeypatch, run_tool, tmp_path
):
    monkeypatch.setattr(program, "print", Mock(side_effect=BrokenPipeError), raising=False)
    with pytest.raises(BrokenPipeError):
        run_tool(*command, "--json", tmp_path / "mine.json")
    assert len(json.loads((tmp_path / "mine.json").read_text())) == 1


def test_what_agreement_cannot_compare_is_refused_before_the_work(command, run_tool, repo):
    words = ("--agreement", repo / "configs/quick/RPN/rpn_R_18_FPN.yaml", "model.pth")
    code, stdout, stderr = run_tool(*command, *words)
    assert (code, stdout) == (2, "")
    assert "is no Faster R-CNN" in stderr


def test_measurements_of_an_earlier_call_are_kept(command, printed, refused, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[{"task": "inference"}]')
    assert "add --force" in refused(*command, "--json", path)
    assert json.loads(path.read_text()) == [{"task": "inference"}]
    printed(*command, "--json", path, "--force")
    assert json.loads(path.read_text())[0]["task"] == "pooling"


def test_a_call_that_was_cut_before_its_first_row_can_be_repeated(command, printed, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("[]\n")
    printed(*command, "--json", path)
    assert json.loads(path.read_text())[0]["task"] == "pooling"
