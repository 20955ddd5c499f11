"""Timing by the test's own clock, processes with their own memory settings, rows by hand."""

import collections
import functools
import itertools
import os
import time

import pytest
import torch
from benchmark import contest
from benchmark.contest import Comparison, Timing, make_row, run_task

from fpn_d2 import UserError


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch, forks):
    """Start a task's processes without imports, which take seconds."""
    monkeypatch.setattr(contest.multiprocessing, "get_context", lambda method: forks)


def test_medians_without_the_first_round(run_here, monkeypatch):
    taken = {"a": itertools.cycle((9, 1, 3, 2)), "b": itertools.cycle((8, 5, 5, 5))}
    monkeypatch.setattr(contest, "seconds_of", lambda call: call())

    def task(device):
        timings = yield Comparison({name: taken[name].__next__ for name in "ab"}, kept=["b"])
        return [timings]

    (timings,) = contest.run_task(task, "cpu", 3)
    a, b = timings["a"], timings["b"]
    assert (a.seconds, a.fastest, a.slowest, a.rounds) == (2, 1, 3, 3)
    assert (b.seconds, b.fastest, b.slowest, b.rounds) == (5, 5, 5, 3)


def test_contestants_take_turns(run_here):
    order = []

    def task(device):
        yield Comparison({name: lambda name=name: order.append(name) for name in "ab"}, kept=["a"])
        yield Comparison({"c": lambda: order.append("c")}, kept=[])
        return []

    assert contest.run_task(task, "cpu", 2) == []
    assert "".join(order) == "ababab" + "ab" + "ccc" + "c"  # last, for their peaks of memory


def hold(device):
    """A task whose calls hold 200 and 20 MiB of float32."""
    calls = {n: functools.partial(lambda n: torch.ones(n * 2**18).sum(), n) for n in (200, 20)}
    timings = yield Comparison(calls, kept=[])
    return timings and [[timings[200].peak_mib, timings[20].peak_mib]]


def test_the_peak_of_memory_is_what_is_held_within():
    ((large, small),) = run_task(hold, "cpu", 1)
    if large is None:
        pytest.skip("not Linux")
    assert 190 < large < 300
    assert small < 100


def leave_much(device):
    """A task whose calls take 64 MiB in blocks so small that the C library keeps them."""

    def call():
        blocks = [torch.ones(2**12) for _ in range(2**12)]
        return len(blocks)

    for _ in range(3):
        call()
    timings = yield Comparison({"a": call}, kept=[])
    return timings and [timings["a"].peak_mib]


def test_what_the_c_library_still_holds_is_no_part_of_what_was_there():
    (peak,) = run_task(leave_much, "cpu", 1)
    if peak is None:
        pytest.skip("not Linux")
    assert 60 < peak < 100


def count_in_processes(device):
    """A task that returns how often the reporting process made each call, and all timings."""
    counts = collections.Counter()

    def contestant(name):
        def call():
            counts[name] += 1
            time.sleep(0.05 if contest.keeps_memory() else 0.02)

        return call

    calls = {name: contestant(name) for name in ("a", "b")}
    timings = yield Comparison(calls, kept=["b"], both=["a"])
    return None if timings is None else [{"counts": counts, "timings": timings}]


def test_what_keeps_memory_runs_in_a_process_of_its_own(run_here):
    (row,) = run_here(count_in_processes)
    assert row["counts"] == {"a": 3, "b": 3}
    assert list(row["timings"]) == ["a", "b"]


def test_what_runs_either_way_is_timed_in_both_processes():
    (row,) = run_task(count_in_processes, "cpu", 2)
    # In the process with the C library's own settings, "b" is called twice for its peak of memory
    # and "a" once, after three calls for its time.
    assert row["counts"] == {"a": 4, "b": 2}
    seconds = {name: timing.fastest for name, timing in row["timings"].items()}
    assert seconds["a"] < 0.05 <= min(seconds["b"], seconds["a, memory kept"])
    assert row["timings"]["a, memory kept"].peak_mib == row["timings"]["a"].peak_mib


def refuse(device):
    if contest.keeps_memory():
        yield Comparison({"a": lambda: None}, kept=["a"])
    raise UserError("the config is missing; name another")


def die(device):
    yield Comparison({"a": lambda: os._exit(3)}, kept=["a"])


@pytest.mark.parametrize(
    ("task", "sentence"),
    [(refuse, "^the config is missing; name another"), (die, "^die ended early.*--tasks")],
)
def test_a_task_that_refuses_or_ends_early_is_a_sentence(task, sentence, capfd):
    with pytest.raises(UserError, match=sentence):
        run_task(task, "cpu", 1)
    assert ("Traceback" in capfd.readouterr().err) == (task is die)


def timing(seconds, peak=None):
    return Timing(seconds, seconds / 2, seconds * 2, 3, peak)


def test_a_row_by_hand():
    timings = {"fp32": timing(0.5, 100.4), "detectron2": timing(2.0, 300.0)}
    row = make_row("inference", "fp32", timings, 0.000123456, 0.789, ours="fp32", x=1)
    assert row == {
        "task": "inference", "variant": "fp32", "seconds": 0.5,
        "baseline": "detectron2", "baseline_seconds": 2.0, "ratio": 4.0,
        "max_error": 0.000123, "rounds": 3, "spread": [0.25, 1.0], "baseline_spread": [1.0, 4.0],
        "peak_mib": 100, "baseline_peak_mib": 300, "share_of_matmul": 0.79, "x": 1,
    }  # fmt: skip
    timings = {"ours": timing(0.5), "torchvision": timing(1.0)}
    row = make_row("training", "bf16", timings, None, baseline="torchvision")
    assert row["baseline"] == "torchvision"
    for key in ("max_error", "peak_mib", "baseline_peak_mib", "share_of_matmul"):
        assert row[key] is None
