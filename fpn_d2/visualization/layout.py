"""Pictures beside and below each other, and text between them.

Shape shorthand: a picture is (H, W, 3) uint8, RGB.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .labels import font, text_color

__all__ = ["beside", "legend", "picture_scale", "stack", "text_block"]

_LEAST, _MOST = 800, 1600


def picture_scale(image: np.ndarray) -> float:
    """How much larger to draw an image, so that labels fit: its longer side 800 to 1600 pixels."""
    longest = max(image.shape[:2])
    return max(1.0, _LEAST / longest) if longest <= _MOST else _MOST / longest


def text_block(text: str, width: int, *, lines: int = 1, size: int = 16) -> np.ndarray:
    """Black text on white, in a smaller font where a line would not fit.

    Args:
        text: with its line breaks.
        width: in pixels.
        lines: how many lines the block is high.
        size: of the font, in pixels.
    """
    canvas = Image.new("RGB", (width, lines * (size + 6)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(text.split("\n")):
        fitting = size
        while fitting > 8 and draw.textlength(line, font=font(fitting)) > width - 4:
            fitting -= 1
        draw.text((2, i * (size + 6) + 1), line, fill="black", font=font(fitting))
    return np.array(canvas)


def beside(pictures: Sequence[np.ndarray], *, gap: int = 0) -> np.ndarray:
    """Pictures beside each other, on white, their tops in line."""
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] + gap for picture in pictures) - gap
    canvas, left = np.full((height, width, 3), 255, np.uint8), 0
    for picture in pictures:
        canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + gap
    return canvas


def stack(pictures: Sequence[np.ndarray], *, gap: int = 0, margin: int = 0) -> np.ndarray:
    """Pictures below each other, on white, their left sides in line."""
    height = sum(picture.shape[0] + gap for picture in pictures) - gap
    width = max(picture.shape[1] for picture in pictures)
    canvas = np.full((height + 2 * margin, width + 2 * margin, 3), 255, np.uint8)
    top = margin
    for picture in pictures:
        canvas[top : top + picture.shape[0], margin : margin + picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return canvas


def legend(words: Sequence[str], colors: Sequence[str]) -> np.ndarray:
    """A strip of words, each on its colour, as ``#RRGGBB``."""
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widths = [int(probe.textlength(word, font=font(15))) + 16 for word in words]
    canvas = Image.new("RGB", (max(1, sum(widths) + 6 * len(widths)), 26), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for word, color, width in zip(words, colors, widths, strict=True):
        draw.rectangle((left, 2, left + width, 23), fill=color)
        draw.text((left + 8, 3), word, fill=text_color(color), font=font(15))
        left += width + 6
    return np.array(canvas)
