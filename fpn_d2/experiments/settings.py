"""The settings that a run's folder belongs to, kept in its ``settings.json``."""

import os
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from ..utils.errors import UserError
from ..utils.files import read_json, write_json

__all__ = ["check_settings_file"]

# What may differ between two calls of one run.
_FREE_KEYS = (
    "OUTPUT_DIR",
    "OVERWRITE_OUTPUT_DIR",
    "DATALOADER.NUM_WORKERS",
    "MODEL.DEVICE",
    "VIS_PERIOD",
    "VERSION",
)
_PROPOSAL_FILES = "DATASETS.PROPOSAL_FILES"


def check_settings_file(folder: str, cfg: CfgNode) -> None:
    """Make sure that a run's folder belongs to these settings, or make it belong to them.

    Raises:
        UserError: where it was begun with others.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "settings.json")
    settings = {key: _setting(key, value) for key, value in _flat(cfg) if key not in _FREE_KEYS}
    begun = ("last_checkpoint", "run.json")
    if not any(os.path.isfile(os.path.join(folder, name)) for name in begun):
        write_json(path, settings)  # nothing is lost of one that was refused or cut at its start
    if not os.path.isfile(path):
        return  # somebody's training by train_net.py, which --resume takes as it is
    found = read_json(path)
    if os.path.isfile(os.path.join(folder, "run.json")):
        # What is done was done; the folders that it was made from may have moved since.
        settings = {k: v for k, v in settings.items() if not k.startswith(_PROPOSAL_FILES)}
        for values in (settings, found):
            values["MODEL.WEIGHTS"] = os.path.basename(values.get("MODEL.WEIGHTS", ""))
    other = [key for key in settings if found.get(key, settings[key]) != settings[key]]
    if other:
        raise UserError(
            f"{folder} was begun with other settings ({other[0]} {found[other[0]]} there, "
            f"{settings[other[0]]} now; {len(other)} in all): delete it, or train into another "
            "folder"
        )


def _setting(key: str, value: Any) -> str:
    """A value as it is compared: paths may be written in several ways."""
    if key == "MODEL.WEIGHTS" and value:
        return os.path.normpath(value)
    if key.startswith(_PROPOSAL_FILES):
        return str([os.path.normpath(path) for path in value])
    return str(value)


def _flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
