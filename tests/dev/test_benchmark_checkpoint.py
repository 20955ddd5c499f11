"""dev/benchmark_checkpoint.py: what it times, and in what order."""

import benchmark_checkpoint
from torch import nn

from fpn_d2.utils import timing


def test_the_disk_is_idle_before_each_way_and_the_first_round_does_not_count(monkeypatch):
    seconds, order = iter([9, 9, 1, 2, 3, 4]), []
    monkeypatch.setattr(benchmark_checkpoint.os, "sync", lambda: order.append("sync"))
    monkeypatch.setattr(timing, "seconds_of", lambda way: [next(seconds), way()][0])
    ways = {name: lambda name=name: order.append(name) for name in "ab"}
    assert benchmark_checkpoint.medians(ways, repeats=2) == {"a": 2, "b": 3}
    assert order == ["sync", "a", "sync", "b"] * 3


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
