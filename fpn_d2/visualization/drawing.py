"""Boxes on an image, and images beside each other."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_bounding_boxes

__all__ = ["PALETTE", "class_color", "draw_boxes", "side_by_side"]

# Okabe and Ito's colours, which people with any colour vision tell apart, without black.
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
        colors: R colours, as ``#RRGGBB``.
        scale: how much larger than the image the picture is.

    Returns:
        (H * scale, W * scale, 3) uint8, RGB.
    """
    picture = Image.fromarray(image)
    if scale != 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    pixels = np.array(picture)
    if len(boxes):
        drawn = draw_bounding_boxes(
            torch.from_numpy(pixels).permute(2, 0, 1),
            torch.as_tensor(boxes) * scale,
            labels=list(labels),
            colors=list(colors),
            width=3,
            font=_font_path(),
            font_size=16,
            label_colors=["black"] * len(boxes),
            label_background_colors=list(colors),
            fill_labels=True,
        )
        pixels = drawn.permute(1, 2, 0).numpy()
    return pixels


def _font_path() -> str:
    return font_manager.findfont("DejaVu Sans")  # comes with matplotlib


def side_by_side(pictures: dict[str, np.ndarray]) -> Image.Image:
    """Put pictures of one height beside each other, each under its title."""
    gap = 8
    height = max(picture.shape[0] for picture in pictures.values())
    width = sum(picture.shape[1] + gap for picture in pictures.values()) - gap
    canvas = Image.new("RGB", (width, height + _TITLE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.truetype(_font_path(), 16)
    left = 0
    for title, picture in pictures.items():
        draw.text((left + 2, 4), title, fill="black", font=font)
        canvas.paste(Image.fromarray(picture), (left, _TITLE_HEIGHT))
        left += picture.shape[1] + gap
    return canvas
