"""dev/kill_trials.py: trainings survive ``kill -9``, alone and under torchrun."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--torchrun",)])
def test_trainings_survive(repo, words):
    done = subprocess.run(
        [sys.executable, repo / "dev/kill_trials.py", "--trials", "2", *words],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "survived 2 / tried 2"
