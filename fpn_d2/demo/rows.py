"""The rows that a demo compares, from the command line's words."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from ..config import load_config
from ..inference import free_title, split_pair
from ..utils.errors import UserError

__all__ = ["parse_rows"]


def parse_rows(
    config_file: str, weights: str, compare: Sequence[str] = (), opts: Sequence[str] = ()
) -> dict[str, CfgNode]:
    """The config of each row, under a title that no other row has.

    Args:
        config_file, weights: of the first row; empty weights leave what the config and ``opts``
            say.
        compare: the other rows, as ``CONFIG:WEIGHTS``.
        opts: overrides of all rows.

    Raises:
        UserError: see :func:`fpn_d2.load_config`, and for words of another form.
    """
    if weights and "MODEL.WEIGHTS" in opts[::2]:
        raise UserError("weights are given twice, by --weights and by MODEL.WEIGHTS; leave one out")
    pairs = [(config_file, weights), *(split_pair(words, "--compare") for words in compare)]
    rows: dict[str, CfgNode] = {}
    for path, own in pairs:
        words = [*opts, *(("MODEL.WEIGHTS", own) if own else ())]
        rows[free_title(path, rows)] = load_config(path, words)
    return rows
