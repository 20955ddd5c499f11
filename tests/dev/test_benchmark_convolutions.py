"""dev/benchmark_convolutions.py times every way."""

import benchmark_convolutions


def test_every_way_is_timed():
    seconds = [*benchmark_convolutions.measure((1, 2, 4, 4), repeats=1)]
    assert len(seconds) == 7
    assert min(seconds) > 0
    seconds = [*benchmark_convolutions.measure_samples((1, 2, 8, 8), repeats=1)]
    assert len(seconds) in (2, 4)
    assert min(seconds) > 0
    seconds = [*benchmark_convolutions.measure_linear(repeats=1)]
    assert len(seconds) == 4
    assert min(seconds) > 0
