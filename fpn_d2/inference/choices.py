"""Models named on a command line as ``CONFIG:WEIGHTS``, and their titles."""

import os
import re
from collections.abc import Container

from ..utils.errors import UserError

__all__ = ["free_title", "split_pair"]


def split_pair(words: str, option: str) -> tuple[str, str]:
    """The config and the weights of ``CONFIG:WEIGHTS``.

    Args:
        words: the two.
        option: of the command line that they were given to, such as ``--model``.

    Raises:
        UserError: where the words have another form.
    """
    # The config ends at its suffix, since weights may be a URL with a colon of its own.
    match = re.fullmatch(r"(.+?\.ya?ml):(.+)", words)
    if not match:
        raise UserError(
            f"{option} {words} is not of the form CONFIG:WEIGHTS, such as "
            "configs/quick/demo.yaml:output/demo/model_final.pth"
        )
    return match.group(1), match.group(2)


def free_title(config: str, taken: Container[str]) -> str:
    """A config's name as a title that no other model has, numbered where it must be."""
    name = title = os.path.splitext(os.path.basename(config))[0]
    number = 1
    while title in taken:
        number += 1
        title = f"{name} ({number})"
    return title
