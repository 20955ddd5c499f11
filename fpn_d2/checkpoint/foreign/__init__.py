"""Checkpoints of torchvision and maskrcnn-benchmark, and the components that only they need.

No other room imports this one; tools and experiments do.
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
