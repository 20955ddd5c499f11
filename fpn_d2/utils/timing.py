"""Timing calls in turn, so that whatever else the machine does slows all of them alike."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from torch.utils.benchmark import timer  # waits for the GPU first, where there is one

Name = TypeVar("Name", bound=Hashable)
Measured = TypeVar("Measured")


def seconds_of(call: Callable[[], Any]) -> float:
    """Call once, and return how long it took in seconds, including the work that it gave a GPU."""
    start = timer()
    call()
    return timer() - start


def time_in_turn(
    contestants: Mapping[Name, Callable[[], Any]],
    rounds: int,
    warm_up: int = 1,
    measure: Callable[[Callable[[], Any]], Measured] = seconds_of,
) -> dict[Name, list[Measured]]:
    """Time several calls, one after the other in each round.

    Args:
        contestants: the calls by name. A round makes them in this order.
        rounds: how many rounds count.
        warm_up: how many rounds come before those and do not count.
        measure: makes one call and returns what is to be kept of it; by default its seconds.

    Returns:
        for each name, the ``rounds`` measurements of its call, by default in seconds.
    """
    measured: dict[Name, list[Measured]] = {name: [] for name in contestants}
    for _ in range(warm_up + rounds):
        for name, call in contestants.items():
            measured[name].append(measure(call))
    return {name: results[warm_up:] for name, results in measured.items()}
