"""Models that a command line names as ``CONFIG:WEIGHTS``, and the titles they are shown under."""

import os
import re
from collections.abc import Container

from ..utils.errors import UserError


def split_pair(words: str, option: str) -> tuple[str, str]:
    """Split ``CONFIG:WEIGHTS`` into the config's path and the weights' path or URL.

    Args:
        words: the pair.
        option: the command-line option that holds it, such as ``--model``.

    Raises:
        UserError: if the words have another form.
    """
    # The weights may be a URL with a colon of its own, so the config ends at its suffix.
    match = re.fullmatch(r"(.+?\.ya?ml):(.+)", words)
    if not match:
        raise UserError(
            f"{option} {words} is not of the form CONFIG:WEIGHTS, such as "
            "configs/quick/demo.yaml:output/demo/model_final.pth"
        )
    return match.group(1), match.group(2)


def free_title(config: str, taken: Container[str]) -> str:
    """Return the config's file name as a title, numbered if another model has that title."""
    name = title = os.path.splitext(os.path.basename(config))[0]
    number = 1
    while title in taken:
        number += 1
        title = f"{name} ({number})"
    return title
