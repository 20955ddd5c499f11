"""dev/kill_trials.py: trainings survive ``kill -9``, alone and under torchrun."""

import kill_trials
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--torchrun",)])
def test_trainings_survive(run_tool, words):
    code, stdout, stderr = run_tool(kill_trials, "--trials", 2, *words)
    assert code == 0, stdout + stderr
    assert stdout.splitlines()[-1] == "survived 2 / tried 2"
