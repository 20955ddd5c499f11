"""Pictures beside and below each other, and text between them.

Shape shorthand: a picture is (H, W, 3) uint8, RGB.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .labels import font, text_color

__all__ = [
    "beside",
    "legend",
    "picture_scale",
    "side_by_side",
    "stack",
    "text_block",
]

_LEAST, _MOST = 800, 1600


def picture_scale(image: np.ndarray) -> float:
    """Return the factor that makes an image's longer side 800 to 1600 pixels, so labels fit."""
    longest = max(image.shape[:2])
    return max(1.0, _LEAST / longest) if longest <= _MOST else _MOST / longest


def text_block(text: str, width: int, *, lines: int = 1, size: int = 16) -> np.ndarray:
    """Write black text on white, and make the font smaller where a line would not fit.

    Args:
        text: one or several lines.
        width: the width of the block, in pixels.
        lines: the height of the block, in lines.
        size: the largest size of the font, in pixels.
    """
    canvas = Image.new("RGB", (width, lines * (size + 6)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(text.split("\n")):
        fitting = size
        while fitting > 8 and draw.textlength(line, font=font(fitting)) > width - 4:
            fitting -= 1
        draw.text((2, i * (size + 6) + 1), line, fill="black", font=font(fitting))
    return np.array(canvas)


def stack(pictures: Sequence[np.ndarray], *, gap: int = 0, margin: int = 0) -> np.ndarray:
    """Put pictures below each other on white, with their left sides in line.

    Args:
        pictures: one or several.
        gap: the space between two pictures, in pixels.
        margin: the space around all of them, in pixels.
    """
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        space = ((0, gap), (0, width - picture.shape[1]), (0, 0))
        rows.append(np.pad(picture, space, constant_values=255))
    whole = np.concatenate(rows)
    sides = (margin, margin)
    return np.pad(whole[: len(whole) - gap], (sides, sides, (0, 0)), constant_values=255)


def beside(pictures: Sequence[np.ndarray], *, gap: int = 0) -> np.ndarray:
    """Put pictures beside each other on white, with their tops in line; see :func:`stack`."""
    return stack([picture.swapaxes(0, 1) for picture in pictures], gap=gap).swapaxes(0, 1)


def side_by_side(pictures: Mapping[str, np.ndarray]) -> Image.Image:
    """Put pictures beside each other, each below its title, whose font shrinks until it fits."""
    titled = [
        stack([text_block(title, picture.shape[1]), picture]) for title, picture in pictures.items()
    ]
    return Image.fromarray(beside(titled, gap=8))


def legend(words: Sequence[str], colors: Sequence[str]) -> np.ndarray:
    """Draw a strip of words, each on its colour (``#RRGGBB``)."""
    widths = [int(font(15).getlength(word)) + 16 for word in words]
    canvas = Image.new("RGB", (max(1, sum(widths) + 6 * len(widths)), 26), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for word, color, width in zip(words, colors, widths, strict=True):
        draw.rectangle((left, 2, left + width, 23), fill=color)
        draw.text((left + 8, 3), word, fill=text_color(color), font=font(15))
        left += width + 6
    return np.array(canvas)
