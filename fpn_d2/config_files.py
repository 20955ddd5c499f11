"""Config files from elsewhere: read without unsafe tags, and before they unfold.

An alias costs a YAML file three characters and may stand for all that came before, so a file of a
few lines can unfold to more than any memory holds.
"""

import io
import os
import stat
from typing import IO, Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from .utils.errors import UserError

__all__ = ["read_config_file"]

# This package's largest file has 300 values in 3 kB.
_MAX_BYTES = 2**20
_MAX_VALUES = 100_000
_MAX_BASES = 100


def read_config_file(path: str) -> Any:
    """Read a config file and, below it, every file of its ``_BASE_``.

    Args:
        path: the file.

    Returns:
        what :meth:`CfgNode.load_yaml_with_base` returns.

    Raises:
        UserError: where one of the files is no text file, or too large.
        yaml.YAMLError: where one is no YAML, or has tags that would run code.
        RecursionError: where one leads back to itself.
    """

    class Reader(CfgNode):
        files_read = 0

        @classmethod
        def _open_cfg(cls, filename: str) -> IO[str]:
            # A file may name another one many times, and that one a third.
            cls.files_read += 1
            if cls.files_read > _MAX_BASES:
                # or a circle, in which Python ends at its own limit
                raise RecursionError
            return _checked_stream(filename)

    return Reader.load_yaml_with_base(path, allow_unsafe=False)


def _checked_stream(path: str) -> IO[str]:
    local = PathManager.get_local_path(path)
    if os.path.exists(local) and not stat.S_ISREG(os.stat(local).st_mode):
        raise UserError(f"config file {path} is no file; name one")
    with open(local, encoding="utf-8") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise UserError(f"config file {path} is larger than 1 MB, which no config is; name another")
    stream = io.StringIO(text)
    stream.name = path  # for yaml's messages
    node = yaml.compose(stream, Loader=yaml.SafeLoader)
    if node is not None and _unfolded_size(node, {}) > _MAX_VALUES:
        raise UserError(
            f"config file {path} would unfold to more than {_MAX_VALUES} values by its aliases; "
            "write the values themselves"
        )
    stream.seek(0)
    return stream


def _unfolded_size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """The number of values below a node, those of aliases as often as they are named."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # for one that holds itself
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_unfolded_size(child, sizes) for child in children)
    return sizes[id(node)]
