"""How an error ends a program."""

import errno
import signal

import pytest

from fpn_d2.experiments.stock_training import config_of_stock
from fpn_d2.utils.errors import exit_on_user_error


def test_a_full_disk_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as end, exit_on_user_error():
        raise OSError(errno.ENOSPC, "No space left on device", "a.json")
    stderr = capsys.readouterr().err
    assert (end.value.code, stderr.count("\n")) == (2, 1)
    assert stderr.startswith("error: a.json: No space left on device; make room there")


def test_ctrl_c_ends_in_one_line_and_by_the_signal(run_program):
    program = (
        "import signal; from fpn_d2.utils.errors import exit_on_user_error\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "with exit_on_user_error(): signal.raise_signal(signal.SIGINT)"
    )
    done = run_program("-c", program)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "stopped\n")


def test_stock_folder(row_config):
    cfg = row_config("quick/RPN/rpn_R_18_FPN", "OUTPUT_DIR", "out/")
    assert config_of_stock(cfg).OUTPUT_DIR == "out-stock"
