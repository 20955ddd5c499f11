"""Which methods a processor is taken to gain from, and what a process asks of its C library."""

import builtins
import ctypes
import os
import subprocess
import sys

import pytest
import torch

from fpn_d2.utils import devices
from fpn_d2.utils.devices import keep_freed_memory

# Fills 64 MB again and again, in a process that asks to keep freed memory and in one that does not:
# none, or 16384 pages of 4 kB, are new each time. Once, 64 MB may not fit a freed block whose end a
# small block took; hence the least of several times. Both are forks of a process with all imports.
FILL_AGAIN = """
import os, resource, torch
from fpn_d2.utils.devices import keep_freed_memory
for keeps in (True, False):
    if os.fork():
        os.wait()
        continue
    taken, pages = keeps and keep_freed_memory(), []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(1 << 24)
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(taken, min(pages), flush=True)
    os._exit(0)
"""


def fill_again():
    """Return, for a process that asks to keep freed memory and one that does not, whether the C
    library agreed, and the least number of new pages."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRELOAD"))}
    words = [sys.executable, "-c", FILL_AGAIN]
    done = subprocess.run(words, env=own, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(taken == "True", int(pages)) for taken, pages in lines]


def test_freed_memory_is_taken_for_the_next_tensor():
    (taken, kept), (_, left) = fill_again()
    if not taken:
        pytest.skip("the C library is not glibc")
    assert kept < 100
    # huge pages are 2 MB each: 32 of them
    assert left >= 32


def test_an_allocator_that_the_user_has_tuned_is_left_alone(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "LD_PRELOAD"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("asked the C library"))
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("has_avx512", "vendor", "family", "by_platform", "winograd", "zen_5"),
    [
        (False, "AuthenticAMD", "25", "", True, False),  # Zen 3
        (False, "GenuineIntel", "6", "", True, False),
        (True, "AuthenticAMD", "25", "", True, False),  # Zen 4
        (True, "AuthenticAMD", "26", "", True, True),  # Zen 5
        (False, "AuthenticAMD", "26", "", True, False),
        (True, "GenuineIntel", "6", "", False, False),
        (True, "", "", "", False, False),  # a system that does not tell
        # Windows, which has no /proc/cpuinfo: Zen 4 and Zen 5
        (True, "", "", "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", True, False),
        (True, "", "", "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD", True, True),
    ],
)
def test_what_a_processor_gains_from(
    has_avx512, vendor, family, by_platform, winograd, zen_5, tmp_path, monkeypatch
):
    file = tmp_path / "cpuinfo"
    if vendor:
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\n")
    monkeypatch.setattr(builtins, "open", lambda path, f=open, **more: f(file, **more))
    monkeypatch.setattr("platform.processor", lambda: by_platform)
    monkeypatch.setattr("torch.cpu._is_avx2_supported", lambda: True)
    monkeypatch.setattr("torch.cpu._is_avx512_supported", lambda: has_avx512)
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    monkeypatch.setattr(devices, "_amd_family", devices._amd_family.__wrapped__)
    monkeypatch.setattr(devices, "has_slow_matmul", devices.has_slow_matmul.__wrapped__)
    assert devices.gains_by_winograd() is winograd
    assert devices.has_slow_matmul() is zen_5
    for has_bfloat16 in (True, False):
        of = "torch.cpu._is_avx512_bf16_supported"
        monkeypatch.setattr(of, lambda has=has_bfloat16: has and has_avx512)
        assert devices.gains_by_winograd(torch.bfloat16) is (zen_5 and has_bfloat16)
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: False)
    assert not devices.gains_by_winograd()
