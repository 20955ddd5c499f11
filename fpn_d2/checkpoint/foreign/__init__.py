"""Checkpoints of torchvision and maskrcnn-benchmark, and the components that only they need.

Importing it registers these components, which ``import fpn_d2`` alone does not. ``load_config``,
``load_model`` and the trainer do so for a config that names one. A program that merges its config
by Detectron2's ``merge_from_file`` and builds the model by its ``build_model`` needs
``import fpn_d2.checkpoint.foreign``.

No other room imports this one, but for ``config_checks``, which imports ``components`` by name once
a config asks for it (``import_foreign``); tools and experiments do.
"""

from . import components  # noqa: F401  (registers them)
from .code_bases import (
    SOURCES,
    Conversion,
    check_complete,
    convert_foreign,
    find_source,
    norm_eps_of,
)

__all__ = [
    "SOURCES",
    "Conversion",
    "check_complete",
    "convert_foreign",
    "find_source",
    "norm_eps_of",
]
