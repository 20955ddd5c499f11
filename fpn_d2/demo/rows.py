"""The rows that a demo compares, from the command line's words."""

import os
import re
from collections.abc import Sequence

from detectron2.config import CfgNode

from ..config import load_config
from ..errors import UserError

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
    pairs = [(config_file, weights), *map(_split, compare)]
    rows: dict[str, CfgNode] = {}
    for path, own in pairs:
        words = [*opts, *(("MODEL.WEIGHTS", own) if own else ())]
        cfg = load_config(path, words)
        title = os.path.splitext(os.path.basename(path))[0]
        number = 1
        while title in rows:
            number += 1
            title = f"{os.path.splitext(os.path.basename(path))[0]} ({number})"
        rows[title] = cfg
    return rows


def _split(words: str) -> tuple[str, str]:
    # The config ends at its suffix, since weights may be a URL with a colon of its own.
    match = re.fullmatch(r"(.+?\.ya?ml):(.+)", words)
    if not match:
        raise UserError(
            f"--compare {words} is not of the form CONFIG:WEIGHTS, such as "
            "configs/quick/demo.yaml:output/demo/model_final.pth"
        )
    return match.group(1), match.group(2)
