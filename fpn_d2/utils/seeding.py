"""Random numbers that depend on a seed and a place in the training, not on what came before."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and torch, GPUs too.

    Args:
        key: integers, 0 or more, such as a seed, a process and an iteration; different keys give
            unrelated random numbers.
    """
    words = _words(key)
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the CPU's generators as :func:`seed_everything` does, and restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = _words(key)
    random.seed(words[0])
    np.random.seed(words[1])
    # torch.manual_seed would seed the GPUs too, whose state is not kept here.
    torch.default_generator.manual_seed(words[2])
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _words(key: tuple[int, ...]) -> list[int]:
    return np.random.SeedSequence(key).generate_state(3).tolist()
