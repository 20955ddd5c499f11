"""Labels on pictures, placed so that each can be read.

Supervision spreads labels too, but it moves them away from their boxes, and those that it pushes
out of the picture end up on each other. Shape shorthand: R boxes, each with a label.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont

__all__ = ["draw_labels", "font", "place_labels", "text_color"]

_Place = tuple[int, int, int, int]


@functools.lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font of all pictures, which comes with matplotlib; the size is in pixels."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def text_color(background: str) -> str:
    """Return ``"black"`` or ``"white"``, whichever is legible on a ``#RRGGBB``."""
    # ITU-R 601 luma: black is not legible on the palette's dark blue.
    luma = np.dot(ImageColor.getrgb(background), (0.299, 0.587, 0.114))
    return "white" if luma < 110 else "black"


def draw_labels(
    picture: Image.Image, boxes: np.ndarray, labels: Sequence[str], colors: Sequence[str]
) -> None:
    """Write each label at its box, in place.

    Args:
        picture: RGB.
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the picture.
        labels: R texts, the most important first; an empty one is not drawn.
        colors: R colours, as ``#RRGGBB``.
    """
    draw = ImageDraw.Draw(picture)
    shown = [i for i, label in enumerate(labels) if label]
    extents = [draw.textbbox((0, 0), labels[i], font=font(15))[2:] for i in shown]
    sizes = [(int(width) + 4, int(height) + 3) for width, height in extents]
    places = place_labels(np.asarray(boxes).reshape(-1, 4)[shown], sizes, picture.size)
    for i, (left, top, right, bottom) in zip(shown, places, strict=True):
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colors[i])
        draw.text((left + 2, top), labels[i], fill=text_color(colors[i]), font=font(15))


def place_labels(
    boxes: np.ndarray, sizes: Sequence[tuple[int, int]], picture_size: tuple[int, int]
) -> list[_Place]:
    """Find places for labels, one after the other, clear of the earlier ones where possible.

    A label goes above its box, below it, or inside at its top or bottom, at its left or right end.
    If all of these are taken, it goes where it covers the least.

    Args:
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the picture.
        sizes: R widths and heights, in pixels.
        picture_size: width and height, in pixels.

    Returns:
        R places, x0 y0 x1 y1 in pixels; inside the picture if the label is no larger than it.
    """
    placed = np.zeros((0, 4))
    for box, size in zip(np.asarray(boxes, dtype=np.float64), sizes, strict=True):
        candidates = list(_candidates(box, size, picture_size))
        covered = [_covered(candidate, placed) for candidate in candidates]
        placed = np.vstack([placed, candidates[int(np.argmin(covered))]])
    return [tuple(place) for place in placed.astype(int).tolist()]


def _candidates(
    box: np.ndarray, size: tuple[int, int], picture_size: tuple[int, int]
) -> Iterator[_Place]:
    x0, y0, x1, y1 = np.round(box).astype(int).tolist()
    width, height = size
    for top in (y0 - height, y1 + 1, y0 + 2, y1 - height - 1):
        for left in (x0, x1 - width):
            left = max(0, min(left, picture_size[0] - width))
            top = max(0, min(top, picture_size[1] - height))
            yield left, top, left + width, top + height


def _covered(place: _Place, placed: np.ndarray) -> float:
    """Return how many pixels of the earlier labels a place covers."""
    sides = np.minimum(place[2:], placed[:, 2:]) - np.maximum(place[:2], placed[:, :2])
    return float(sides.clip(min=0).prod(axis=1).sum())
