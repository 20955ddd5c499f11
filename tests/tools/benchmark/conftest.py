"""What the tests of the benchmark's tasks share."""

from concurrent.futures import Executor, Future

import pytest
from benchmark import contest


class Here(Executor):
    """Instead of a process: calls at once."""

    def submit(self, function, /, *args):
        future = Future()
        future.set_result(function(*args))
        return future


@pytest.fixture
def run_here(monkeypatch):
    """``run_here(task, *args)``: the rows of a task that runs one round in this process."""
    monkeypatch.setattr(contest, "ProcessPoolExecutor", lambda **_: Here())
    monkeypatch.setattr(contest, "keep_freed_memory", lambda: False)  # or all later tests keep it
    return lambda task, *args: contest.run_task(task, "cpu", 1, *args)


@pytest.fixture
def measure(run_here):
    """``measure(task, *args)``: the same by variant and baseline, checked for consistency."""

    def run(task, *args):
        rows = run_here(task, *args)
        for row in rows:
            ratio = row["baseline_seconds"] / row["seconds"]
            # of numbers that are rounded; the ratio itself to two places
            assert row["ratio"] == pytest.approx(ratio, rel=0.02, abs=0.005)
            assert row["spread"][0] <= row["seconds"] <= row["spread"][1]
        return {(row["variant"], row["baseline"]): row for row in rows}

    return run
