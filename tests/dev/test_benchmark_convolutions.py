"""dev/benchmark_convolutions.py times both ways."""

import benchmark_convolutions


def test_both_ways_are_timed():
    channels_last, copies = benchmark_convolutions.measure((1, 2, 4, 4), repeats=1)
    assert min(channels_last, copies) > 0
