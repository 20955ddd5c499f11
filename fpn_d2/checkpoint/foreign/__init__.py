"""Checkpoints of torchvision and maskrcnn-benchmark, and the components that only they need.

Importing it registers these components, which ``import fpn_d2`` alone does not. ``load_config``,
``load_model`` and the trainer do so for a config that names one. A program that merges its config
by Detectron2's ``merge_from_file`` and builds the model by its ``build_model`` needs
``import fpn_d2.checkpoint.foreign``. Who imports it here: CONTRIBUTING.md, The house.
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
