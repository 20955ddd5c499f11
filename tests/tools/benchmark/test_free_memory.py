"""Free memory, read from made-up folders in the form that Linux writes."""

import math

import pytest
from benchmark.free_memory import available_gib

GIB = 2**30
FILES = {  # files of the limit and of the use, and the cache's line in memory.stat
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
NO_LIMIT = {1: 9223372036854771712, 2: "max"}


@pytest.fixture
def root(tmp_path):
    """The root folder of a machine with 100 GiB free."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {100 * 2**20} kB\n")
    return tmp_path


def write_group(folder, version, limit, used=0, cache=0):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(FILES[version], (limit, used), strict=False):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{FILES[version][2]} {cache}\n")


def test_without_control_groups_it_is_the_machines_less_one(root):
    assert available_gib("cpu", root) == 99


def test_without_linux_there_is_no_end(tmp_path):
    assert available_gib("cpu", tmp_path) == math.inf


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("limited", ["", "slurm", "slurm/job_7", "slurm/job_7/step_0"])
def test_the_tightest_group_counts_wherever_it_is(root, version, limited):
    top = root / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    for path in ("", "slurm", "slurm/job_7", "slurm/job_7/step_0"):
        write_group(top / path, version, NO_LIMIT[version])
    write_group(top / limited, version, 20 * GIB, used=8 * GIB, cache=3 * GIB)
    mine = "4:memory:" if version == 1 else "0::"
    (root / "proc/self/cgroup").write_text(f"3:cpuset:/other\n{mine}/slurm/job_7/step_0\n")
    assert available_gib("cpu", root) == 20 - 8 + 3 - 1


def test_the_top_of_version_2_has_no_limit(root):
    write_group(root / "sys/fs/cgroup/user.slice", 2, 6 * GIB)
    (root / "proc/self/cgroup").write_text("0::/user.slice/session-1.scope\n")
    assert available_gib("cpu", root) == 5


def test_a_container_is_told_the_path_of_its_host(root):
    write_group(root / "sys/fs/cgroup/memory", 1, 4 * GIB, used=GIB)
    (root / "proc/self/cgroup").write_text("9:cpu,memory:/docker/0123abc\n")
    assert available_gib("cpu", root) == 2
