"""Pictures of what a model detects on images and videos of your own."""

from .run import parse_rows, run_demo, show_webcam
from .sources import MAX_PIXELS

__all__ = ["MAX_PIXELS", "parse_rows", "run_demo", "show_webcam"]
