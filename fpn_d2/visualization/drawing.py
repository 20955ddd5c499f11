"""Boxes on an image, and images beside each other."""

from collections.abc import Sequence

import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

__all__ = ["PALETTE", "class_color", "draw_boxes", "side_by_side"]

# Okabe and Ito's colours, which people with any colour vision tell apart; black is left out,
# since labels stand on black.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")

_TITLE_HEIGHT = 28


def class_color(index: int) -> str:
    """The colour of a class, the same in every picture."""
    return PALETTE[index % len(PALETTE)]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[str],
    scale: float = 1.0,
) -> np.ndarray:
    """Draw labelled boxes.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the image.
        labels: R texts.
        colors: R matplotlib colours.
        scale: how much larger than the image the picture is.

    Returns:
        (H * scale, W * scale, 3) uint8, RGB.
    """
    visualizer = Visualizer(image, scale=scale)
    if len(boxes):
        visualizer.overlay_instances(boxes=boxes, labels=labels, assigned_colors=list(colors))
    return visualizer.get_output().get_image()


def side_by_side(pictures: dict[str, np.ndarray]) -> Image.Image:
    """Put pictures of one height beside each other, each under its title."""
    gap = 8
    height = max(picture.shape[0] for picture in pictures.values())
    width = sum(picture.shape[1] + gap for picture in pictures.values()) - gap
    canvas = Image.new("RGB", (width, height + _TITLE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.truetype(font_manager.findfont("sans"), 16)
    left = 0
    for title, picture in pictures.items():
        draw.text((left + 2, 4), title, fill="black", font=font)
        canvas.paste(Image.fromarray(picture), (left, _TITLE_HEIGHT))
        left += picture.shape[1] + gap
    return canvas
