"""Timing calls in turn, by a clock of the test's own."""

from fpn_d2.utils import timing


def test_a_call_takes_what_the_clock_says(monkeypatch):
    clock = iter([3.0, 5.5])
    monkeypatch.setattr(timing, "timer", lambda: next(clock))
    assert timing.seconds_of(lambda: None) == 2.5


def test_contestants_take_turns_and_the_rounds_that_warm_up_do_not_count():
    order, seconds = [], iter([9, 8, 1, 5, 3, 6, 2, 7])
    calls = {name: lambda name=name: order.append(name) for name in "ab"}

    def measure(call):
        call()
        return next(seconds)

    assert timing.time_in_turn(calls, rounds=3, measure=measure) == {"a": [1, 3, 2], "b": [5, 6, 7]}
    assert "".join(order) == "ab" * 4
    timing.time_in_turn(calls, rounds=1, warm_up=2)
    assert "".join(order) == "ab" * 7
