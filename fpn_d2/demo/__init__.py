"""Pictures of what a model does with images and videos of one's own."""

from .rows import parse_rows
from .run import run_demo
from .sources import MAX_PIXELS

__all__ = ["MAX_PIXELS", "parse_rows", "run_demo"]
