"""Pictures: boxes in colours that everybody can tell apart."""

from .drawing import PALETTE, class_color, draw_boxes, side_by_side
from .results import draw_results

__all__ = ["PALETTE", "class_color", "draw_boxes", "draw_results", "side_by_side"]
