"""Pictures: boxes and masks in colours that everybody can tell apart."""

from .drawing import PALETTE, class_color, draw_boxes, draw_masks, side_by_side
from .mask_results import draw_mask_proposals
from .results import draw_results

__all__ = [
    "PALETTE",
    "class_color",
    "draw_boxes",
    "draw_mask_proposals",
    "draw_masks",
    "draw_results",
    "side_by_side",
]
