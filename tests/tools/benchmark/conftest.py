"""Fixtures for the tests of the benchmark's tasks."""

import multiprocessing
import os
import sys
from concurrent.futures import Executor, Future
from multiprocessing import forkserver

import pytest
from benchmark import contest


@pytest.fixture(scope="session")
def forks():
    """A context whose processes fork from one that has imported what the tests send them."""
    context = multiprocessing.get_context("forkserver")
    files = ("test_contest", "test_growth")
    context.set_forkserver_preload([f"tests.tools.benchmark.{file}" for file in files])
    with pytest.MonkeyPatch.context() as patch:  # the server does not inherit our sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


class Here(Executor):
    """In place of a pool of processes: calls at once, in this process."""

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
    """``measure(task, *args)``: its rows by variant and baseline, checked for consistency."""

    def run(task, *args):
        rows = run_here(task, *args)
        for row in rows:
            ratio = row["baseline_seconds"] / row["seconds"]
            # the seconds are rounded, and the ratio to two places
            assert row["ratio"] == pytest.approx(ratio, rel=0.02, abs=0.005)
            assert row["spread"][0] <= row["seconds"] <= row["spread"][1]
        return {(row["variant"], row["baseline"]): row for row in rows}

    return run
