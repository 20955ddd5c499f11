"""The benchmark's command line, with a task that takes no time."""

import json
import sys

import benchmark as tool
import pytest

from fpn_d2.benchmark.measure import Timing, row


@pytest.fixture
def call(monkeypatch):
    """``call(*words)``: the tool with two tasks of one row each, in one process."""

    def task(name, rounds):
        timings = [Timing(seconds, seconds, seconds, rounds, None) for seconds in (1.0, 2.0)]
        return [row(name, "fp32 inference", timings[0], "detectron2", timings[1], None)]

    tasks = {name: lambda a, name=name: (task, name, a.rounds) for name in ("pooling", "rows")}
    monkeypatch.setattr(tool, "TASKS", tasks)
    monkeypatch.setattr(tool, "take_turns", lambda function, *args: function(*args))
    monkeypatch.setattr(tool, "profile_detectors", lambda *_: "| operator | fp32 |")
    monkeypatch.setattr(tool, "keep_freed_memory", lambda: True)  # or all later tests keep it

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, words)])
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
    path = tmp_path / "new.json"
    call(*words, "--rounds", 3, "--json", path)
    rows = json.loads(path.read_text())
    assert [row["task"] for row in rows] == tasks
    assert all(row["rounds"] == 3 and row["threads"] for row in rows)
    printed = capsys.readouterr().out
    assert "commit: " in printed
    assert "operator" not in printed


def test_the_profile_is_printed_where_it_is_asked_for(call, capsys):
    call("--tasks", "--profile")
    assert "| operator | fp32 |" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--rounds", 0], ["--device", "tpu"], ["--tasks", "nothing"]])
def test_what_cannot_be_timed_is_refused(words, call, capsys):
    with pytest.raises(SystemExit):
        call(*words)
    assert "error: " in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named_before_the_work(call, tmp_path, capsys):
    (tmp_path / "file").write_text("a file and no folder")
    with pytest.raises(SystemExit):
        call("--json", tmp_path / "file" / "new.json")
    captured = capsys.readouterr()
    assert "new.json cannot be written" in captured.err
    assert "task:" not in captured.out
    with pytest.raises(SystemExit):
        call("--json", tmp_path)
    assert "cannot be written" in capsys.readouterr().err
