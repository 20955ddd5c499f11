"""The checkpoint benchmark: what it times, and in what order."""

import benchmark_checkpoint
from torch import nn


def test_ways_are_called_in_turn_and_the_first_call_does_not_count(monkeypatch):
    clock, called = iter([0, 9, 0, 9, 0, 1, 0, 2, 0, 3, 0, 4]), []
    monkeypatch.setattr(benchmark_checkpoint.time, "perf_counter", lambda: next(clock))
    ways = {name: lambda name=name: called.append(name) for name in "ab"}
    assert benchmark_checkpoint.medians(ways, repeats=2) == {"a": 2, "b": 3}
    assert called == ["a", "b"] * 3


def test_every_form_is_timed(tmp_path):
    timed = dict(benchmark_checkpoint.measure(nn.Linear(2, 2), str(tmp_path), repeats=1))
    assert list(timed) == [
        "write .pth",
        "read .pth",
        "read .pkl",
        "read .safetensors",
        "--resume, checksums too",
    ]
    assert all(seconds > 0 for ways in timed.values() for seconds in ways.values())
