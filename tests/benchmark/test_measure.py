"""Timing by a clock of the test's own, and rows by hand."""

import collections
import itertools
import time

import pytest
import torch

from fpn_d2 import UserError
from fpn_d2.benchmark import (
    benchmark_table,
    describe_benchmark,
    measure,
    precisions,
    write_benchmark,
)
from fpn_d2.utils.files import read_json


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)``: a contestant that takes these seconds in its calls, one after another."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def contestant(*seconds):
        taken = itertools.cycle(seconds)

        def call():
            now[0] += next(taken)

        return call

    return contestant


def test_medians_without_the_first_round(clock):
    timings = measure.compare({"a": clock(9, 1, 3, 2), "b": clock(8, 5, 5, 5)}, 3, "cpu")
    assert (timings["a"].seconds, timings["a"].fastest, timings["a"].slowest) == (2, 1, 3)
    assert (timings["b"].seconds, timings["b"].fastest, timings["b"].slowest) == (5, 5, 5)


def test_contestants_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    measure.compare(calls, 2, "cpu")
    assert "".join(order) == "ababab"


def test_the_peak_of_memory_is_what_is_held_within():
    def holds(mebibytes):
        return lambda: torch.ones(mebibytes * 2**18).sum()  # float32

    timings = measure.compare({"large": holds(200), "small": holds(20)}, 1, "cpu")
    if timings["large"].peak_mib is None:
        pytest.skip("not Linux")
    assert 190 < timings["large"].peak_mib < 300
    assert timings["small"].peak_mib < 100


def test_the_rate_of_matrix_products_is_of_the_faster_library(clock, monkeypatch):
    class Matrix:
        def __init__(self, *_, **__):
            self.multiply = clock(0.5)

        def to(self, dtype):
            return self

        def permute(self, *_):
            return self

        def __getitem__(self, key):
            return self

        def __matmul__(self, other):
            self.multiply()

    monkeypatch.setattr(precisions.torch, "randn", Matrix)
    convolve = clock(0.25)
    monkeypatch.setattr(precisions.F, "conv2d", lambda pixels, weight: convolve())
    assert precisions.matmul_rate(torch.float32, "cpu", size=100) == 2 * 100**3 / 0.25


def timing(seconds, peak=None):
    return measure.Timing(seconds, seconds / 2, seconds * 2, 3, peak)


def test_a_row_by_hand():
    row = measure.row(
        *("inference", "fp32", timing(0.5, 100.4), "detectron2", timing(2.0, 300.0)),
        *(0.000123456, 0.789),
        x=1,
    )
    assert row == {
        "task": "inference",
        "variant": "fp32",
        "seconds": 0.5,
        "baseline": "detectron2",
        "baseline_seconds": 2.0,
        "ratio": 4.0,
        "max_error": 0.000123,
        "rounds": 3,
        "spread": [0.25, 1.0],
        "baseline_spread": [1.0, 4.0],
        "peak_mib": 100,
        "baseline_peak_mib": 300,
        "share_of_matmul": 0.79,
        "x": 1,
    }


def test_the_table_and_the_file(tmp_path):
    rows = [
        measure.row("pooling", "bf16", timing(0.01), "detectron2", timing(0.4), 0.004),
        measure.row(
            "inference", "fp32", timing(2.0, 10), "torchvision", timing(1.0, 20), None, 0.5
        ),
    ]
    pooling, inference = benchmark_table(rows).splitlines()[2:]
    begin, end = (
        "| pooling | bf16 | 0.01 (0.005 to 0.02) |",
        " 0.4 (0.2 to 0.8) | 40.00 |  |  | 4e-03 |",
    )
    assert pooling == f"{begin} detectron2 |{end}"
    begin, end = (
        "| inference | fp32 | 2 (1 to 4) | torchvision |",
        " 1 (0.5 to 2) | 0.50 | 10 / 20 | 50% |  |",
    )
    assert inference == begin + end
    path = tmp_path / "new" / "benchmark.json"
    write_benchmark(rows, describe_benchmark(), str(path))
    content = read_json(path)
    assert [{key: found[key] for key in rows[0]} for found in content] == rows
    for found in content:  # each tells where it is from
        assert found["threads"] == torch.get_num_threads()
        assert "GiB" in found["machine"]
        assert f"torch {torch.__version__}" in found["versions"]
        assert found["commit"]


def test_the_paper_rows_are_a_table_of_ratios():
    rows = [
        measure.row("rows", f"a_{way}", timing(0.1), "detectron2", timing(seconds), None)
        for way, seconds in (("b inference", 0.2), ("b training", 0.15), ("c training", 0.3))
    ]
    lines = benchmark_table(rows).splitlines()
    assert lines[2:] == [
        "",
        "| row, times as fast as detectron2 | inference | training |",
        "| --- | --- | --- |",
        "| a_b | 2.00 (100 / 200 ms) | 1.50 (100 / 150 ms) |",
        "| a_c |  | 3.00 (100 / 300 ms) |",
    ]


def compare_processes(rounds):
    """A task: how often this process called a contestant, and how long each took."""
    calls = collections.Counter()

    def contestant(name):
        def call():
            calls[name] += 1
            time.sleep(0.02 if measure.is_timed_here(memory_kept=False) else 0.05)

        return call

    contestants = {name: contestant(name) for name in ("a", "b")}
    contestants["a again"] = contestants["a"]
    timings = measure.compare(contestants, rounds, "cpu", memory_kept=["b", "a again"])
    return [{"calls": calls, "timings": timings}]


def test_what_keeps_memory_runs_in_a_process_of_its_own():
    (row,) = measure.take_turns(compare_processes, 2)
    # Told by the process that has the C library's own way with memory, in which peaks of memory are
    # measured: of "b" in a second call, while "a again" is "a".
    assert row["calls"] == {"a": 3, "b": 2}
    seconds = {name: timing.fastest for name, timing in row["timings"].items()}
    assert seconds["a"] < 0.05 <= min(seconds["b"], seconds["a again"])
    assert row["timings"]["a again"].peak_mib == row["timings"]["a"].peak_mib
    (alone,) = compare_processes(1)
    assert alone["calls"] == {"a": 4, "b": 2}


def fail(rounds):
    raise SystemExit(3)


def test_a_task_that_ends_early_is_named():
    with pytest.raises(UserError, match="fail ended early"):
        measure.take_turns(fail, 1)


def refuse_in_one(rounds):
    measure.compare({"a": lambda: None, "b": lambda: None}, 1, "cpu", memory_kept=["b"])
    if measure.is_timed_here(memory_kept=False):
        raise UserError("the second set is missing; name another")
    measure.compare({"a": lambda: None, "b": lambda: None}, 1, "cpu", memory_kept=["b"])


def test_a_refusal_of_one_process_ends_the_other(capfd):
    with pytest.raises(UserError, match="the second set is missing"):
        measure.take_turns(refuse_in_one, 1)
    assert "Traceback" not in capfd.readouterr().err


def refuse(rounds):
    raise UserError("the config is missing; name another")


def test_what_a_task_refuses_is_told():
    with pytest.raises(UserError, match="the config is missing; name another"):
        measure.take_turns(refuse, 1)
