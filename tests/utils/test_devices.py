"""What a process asks of its C library."""

import os
import subprocess
import sys

import pytest

# Fills 64 MB again and again: 16384 pages of 4 kB, or none, are new each time. A small block may
# take the end of a freed one, so that it does not fit once; hence the least of several times.
FILL_AGAIN = """
import resource, sys, torch
from fpn_d2.utils.devices import keep_freed_memory
taken = keep_freed_memory() if sys.argv[1] == "keep" else False
pages = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(taken, min(pages))
"""


def fill_again(way, **environment):
    """Whether the library took it, and the least of the pages that were new."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRELOAD"))}
    words = [sys.executable, "-c", FILL_AGAIN, way]
    done = subprocess.run(
        words, env={**own, **environment}, capture_output=True, text=True, check=True
    )
    taken, pages = done.stdout.split()
    return taken == "True", int(pages)


def test_freed_memory_is_taken_for_the_next_tensor():
    taken, pages = fill_again("keep")
    if not taken:
        pytest.skip("the C library is not glibc")
    assert pages < 100
    # huge pages are 2 MB each: 32 of them
    assert fill_again("leave")[1] >= 32


def test_an_allocator_that_the_user_has_tuned_is_left_alone():
    assert not fill_again("keep", MALLOC_ARENA_MAX="2")[0]
