"""What a process asks of its C library."""

import os
import subprocess
import sys

import pytest

from fpn_d2.utils import devices

# Fills 64 MB again and again, before and after it asks: 16384 pages of 4 kB, or none, are new each
# time. A small block may take the end of a freed one, so that it does not fit once; hence the least
# of several times. The file alone is run, which needs of the package nothing else.
FILL_AGAIN = """
import resource, runpy, sys, torch
keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]
def pages():
    least = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(1 << 24)
        least.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(least)
print(pages(), keep_freed_memory(), pages())
"""


def fill_again(**environment):
    """The least of the pages that were new before it asked, whether the library took it, and the
    least after that."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRELOAD"))}
    words = [sys.executable, "-c", FILL_AGAIN, devices.__file__]
    done = subprocess.run(
        words, env={**own, **environment}, capture_output=True, text=True, check=True
    )
    before, taken, after = done.stdout.split()
    return int(before), taken == "True", int(after)


def test_freed_memory_is_taken_for_the_next_tensor():
    before, taken, after = fill_again()
    if not taken:
        pytest.skip("the C library is not glibc")
    assert after < 100
    # huge pages are 2 MB each: 32 of them
    assert before >= 32


def test_an_allocator_that_the_user_has_tuned_is_left_alone():
    assert not fill_again(MALLOC_ARENA_MAX="2")[1]
