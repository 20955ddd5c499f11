"""Pictures, in colours that everybody can tell apart."""

from .drawing import PALETTE, class_color, draw_boxes, draw_masks
from .evaluation_results import draw_results, has_results, overlaps_with_objects, read_results
from .layout import side_by_side
from .pyramid import (
    LEVEL_COLORS,
    draw_anchor_panel,
    draw_anchors,
    draw_explanation,
    draw_heat_maps,
    draw_levels,
    draw_proposals,
    level_color,
    level_legend,
    level_number,
)

__all__ = [
    "LEVEL_COLORS",
    "PALETTE",
    "class_color",
    "draw_anchor_panel",
    "draw_anchors",
    "draw_boxes",
    "draw_explanation",
    "draw_heat_maps",
    "draw_levels",
    "draw_masks",
    "draw_proposals",
    "draw_results",
    "has_results",
    "level_color",
    "level_legend",
    "level_number",
    "overlaps_with_objects",
    "read_results",
    "side_by_side",
]
