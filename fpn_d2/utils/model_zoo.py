"""Detectron2's model zoo by its names, such as ``COCO-Detection/faster_rcnn_R_50_FPN_3x``.

A name may end in ``.yaml``. :mod:`detectron2.model_zoo` is imported only once a name has this form:
that import takes longer than all else that importing this package adds to importing Detectron2.
"""

import difflib
import glob
import os
import re

from detectron2.config import CfgNode
from detectron2.utils.file_io import Detectron2Handler

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def zoo_names() -> list[str]:
    """List the entries that have both a YAML config and weights, sorted, without ``.yaml``."""
    from detectron2 import model_zoo

    folder = os.path.dirname(model_zoo.get_config_file("Base-RCNN-FPN.yaml"))
    files = glob.glob(os.path.join(folder, "*", "*.yaml"))
    names = sorted(os.path.relpath(file, folder).replace(os.sep, "/")[:-5] for file in files)
    return [name for name in names if zoo_weights(name)]


def close_zoo_names(words: str) -> list[str]:
    """Return up to two names of the zoo that come closest to a word, with or without folder."""
    name = words.removesuffix(".yaml")
    names = zoo_names()
    same_file = [one for one in names if one.endswith(f"/{name.rpartition('/')[2]}")]
    if same_file or name.count("/") > 1:
        return same_file[:2]
    return difflib.get_close_matches(name, names, 2, 0.7)


def zoo_weights(name: str) -> str:
    """Return the ``detectron2://`` address of an entry's weights; "" if there is no such entry."""
    if not _NAME.fullmatch(name):
        return ""
    from detectron2 import model_zoo

    try:
        url = model_zoo.get_checkpoint_url(name)
    except RuntimeError:
        return ""
    return url.replace(Detectron2Handler.S3_DETECTRON2_PREFIX, Detectron2Handler.PREFIX)


def zoo_config(name: str) -> CfgNode | None:
    """Return a config as Detectron2 has it; None if the zoo has no YAML config of this name.

    The file is Detectron2's own, so it may use YAML tags that run code, as RetinaNet's does.
    """
    name = f"{name.removesuffix('.yaml')}.yaml"
    if not _config_path(name):
        return None
    from detectron2 import model_zoo

    return model_zoo.get_config(name)


def zoo_config_file(name: str) -> str:
    """Return the path of a YAML config; "" if the name is a file's, or the zoo has no such."""
    name = f"{name.removesuffix('.yaml')}.yaml"
    return "" if os.path.isfile(name) else _config_path(name)


def _config_path(name: str) -> str:
    if not _NAME.fullmatch(name):
        return ""
    from detectron2 import model_zoo

    try:
        return model_zoo.get_config_file(name)
    except RuntimeError:  # no such name, or that of a LazyConfig
        return ""


def zoo_entry(address: str) -> str:
    """Return the name of the entry whose weights are at an address; "" if it is not the zoo's."""
    for prefix in (Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX):
        if address.startswith(prefix):
            name = "/".join(address.removeprefix(prefix).split("/")[:2])
            return name if zoo_weights(name) else ""
    return ""
