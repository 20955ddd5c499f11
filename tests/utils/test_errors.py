"""How an error ends a program."""

import errno

import pytest

from fpn_d2.experiments.stock_training import config_of_stock
from fpn_d2.utils.errors import exit_on_user_error


@pytest.mark.parametrize(
    "error, code, says",
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), 2, "error: a.json: No space"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_a_full_disk_and_ctrl_c_end_in_one_line(error, code, says, capsys):
    with pytest.raises(SystemExit) as end, exit_on_user_error():
        raise error
    stderr = capsys.readouterr().err
    assert (end.value.code, stderr.count("\n"), stderr[: len(says)]) == (code, 1, says)


def test_stock_folder(row_config):
    cfg = row_config("quick/RPN/rpn_R_18_FPN", "OUTPUT_DIR", "out/")
    assert config_of_stock(cfg).OUTPUT_DIR == "out-stock"
