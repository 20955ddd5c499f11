"""Timing by a clock of the test's own, and rows by hand."""

import itertools
import os

import pytest
import torch

from fpn_d2 import UserError
from fpn_d2.benchmark import benchmark_table, describe_benchmark, measure, write_benchmark
from fpn_d2.files import read_json


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


def test_the_rate_of_matrix_products_by_hand(clock, monkeypatch):
    class Matrix:
        def __init__(self, *_, **__):
            self.multiply = clock(0.5)

        def to(self, dtype):
            return self

        def __matmul__(self, other):
            self.multiply()

    monkeypatch.setattr(measure.torch, "randn", Matrix)
    assert measure.matmul_rate(torch.float32, "cpu", size=100) == 2 * 100**3 / 0.5


def timing(seconds, peak=None):
    return measure.Timing(seconds, seconds / 2, seconds * 2, peak)


def test_a_row_by_hand():
    row = measure.row(
        "inference", "fp32", timing(0.5, 100.4), "detectron2", timing(2.0, 300.0), 0.000123456, x=1
    )
    assert row == {
        "task": "inference",
        "variant": "fp32",
        "seconds": 0.5,
        "baseline": "detectron2",
        "baseline_seconds": 2.0,
        "ratio": 4.0,
        "max_error": 0.000123,
        "spread": [0.25, 1.0],
        "baseline_spread": [1.0, 4.0],
        "peak_mib": 100,
        "baseline_peak_mib": 300,
        "x": 1,
    }


def test_the_table_and_the_file(tmp_path):
    rows = [
        measure.row("pooling", "bf16", timing(0.01), "detectron2", timing(0.4), 0.004),
        measure.row("inference", "fp32", timing(2.0, 10), "torchvision", timing(1.0, 20), None),
    ]
    pooling, inference = benchmark_table(rows).splitlines()[2:]
    begin, end = (
        "| pooling | bf16 | 0.01 (0.005 to 0.02) |",
        " 0.4 (0.2 to 0.8) | 40.00 |  | 4e-03 |",
    )
    assert pooling == f"{begin} detectron2 |{end}"
    begin, end = (
        "| inference | fp32 | 2 (1 to 4) | torchvision |",
        " 1 (0.5 to 2) | 0.50 | 10 / 20 |  |",
    )
    assert inference == begin + end
    path = tmp_path / "new" / "benchmark.json"
    write_benchmark(rows, describe_benchmark(5), str(path))
    content = read_json(path)
    assert content["rows"] == rows
    assert content["rounds"] == 5
    assert content["threads"] == torch.get_num_threads()
    assert {"commit", "machine", "versions"} <= set(content)


def compare_processes(rounds):
    """A task: which process runs a contestant, by its name."""
    ran = {}
    calls = {name: lambda name=name: ran.update({name: os.getpid()}) for name in ("a", "b")}
    timings = measure.compare(calls, rounds, "cpu", memory_kept=["b"])
    return [{"ran": ran, "timed": list(timings)}]


def test_what_keeps_memory_runs_in_a_process_of_its_own():
    (row,) = measure.take_turns(compare_processes, 2)
    # told by the process that has the C library's own way with memory
    assert list(row["ran"]) == ["a"]
    assert row["ran"]["a"] != os.getpid()
    assert sorted(row["timed"]) == ["a", "b"]
    assert list(compare_processes(1)[0]["ran"]) == ["a", "b"]  # alone


def fail(rounds):
    raise SystemExit(3)


def test_a_task_that_ends_early_is_named():
    with pytest.raises(UserError, match="fail ended early"):
        measure.take_turns(fail, 1)
