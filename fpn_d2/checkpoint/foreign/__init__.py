"""Checkpoints of torchvision and maskrcnn-benchmark, and the components that only they need.

Importing this package registers the components; ``import fpn_d2`` alone does not. ``load_config``,
``load_model`` and the trainer register them for a config that names one. A program that merges its
config with Detectron2's ``merge_from_file`` and builds the model with its ``build_model`` needs
``import fpn_d2.checkpoint.foreign``. CONTRIBUTING.md, The house, says what imports it here.
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
