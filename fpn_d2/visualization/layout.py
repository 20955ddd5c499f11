"""Text on pictures, and pictures beside and below each other.

Shape shorthand: a picture is (H, W, 3) uint8, RGB; R boxes have a label each.
"""

import contextlib
import functools
import logging
import string
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont

logger = logging.getLogger(__name__)

_LEAST, _MOST = 800, 1600

_loaded_font = functools.lru_cache(ImageFont.truetype)


def picture_scale(image: np.ndarray) -> float:
    """Return the factor that makes an image's longer side 800 to 1600 pixels, so labels fit."""
    longest = max(image.shape[:2])
    return max(1.0, _LEAST / longest) if longest <= _MOST else _MOST / longest


def font_families(text: str) -> list[str]:
    """Return matplotlib's names of the usual font and, for letters it lacks, of one with them."""
    usual = _font_file(frozenset())
    lacks = {letter for letter in set(text) if not _has_letters(usual, frozenset(letter))}
    found = _font_file(frozenset(lacks - set(string.whitespace)))
    return [*dict.fromkeys(map(_font_family, (usual, found)))]


@functools.cache
def _font_family(path: str) -> str:
    """Return matplotlib's name of a font file, and register the font with matplotlib."""
    if path not in {font.fname for font in font_manager.fontManager.ttflist}:
        font_manager.fontManager.addfont(path)
    return font_manager.get_font(path).family_name


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Load a font that has the letters of a text; the size is in pixels."""
    letters, digits = set(text) - set(string.whitespace), set(string.digits)
    if letters & digits:  # all scores of a class then need one search only
        letters |= digits
    return _loaded_font(_font_file(frozenset(letters)), size)


@functools.lru_cache(maxsize=1024)
def _font_file(letters: frozenset[str]) -> str:
    """Return the file of all pictures' font, which comes with matplotlib, or, for letters that it
    lacks, such as those of East Asia, of any font on this machine that has them."""
    usual = font_manager.findfont("DejaVu Sans")
    if _has_letters(usual, letters):
        return usual
    for path in sorted(font_manager.findSystemFonts()):
        with contextlib.suppress(OSError, RuntimeError):  # a file of another kind, or damaged
            if _has_letters(path, letters):
                return path
    logger.warning(
        "no font of this machine has all of %s, so pictures show boxes in their place: install one "
        "that has them, such as Noto Sans CJK (fonts-noto-cjk)",
        "".join(sorted(letters)),
    )
    return usual


def _has_letters(path: str, letters: frozenset[str]) -> bool:
    font = font_manager.get_font(path)
    return all(font.get_char_index(ord(letter)) for letter in letters)


def _text_color(background: str) -> str:
    """Return ``"black"`` or ``"white"``, whichever is legible on a ``#RRGGBB`` background."""
    # ITU-R 601 luma: black is not legible on the palette's dark blue.
    luma = np.dot(ImageColor.getrgb(background), (0.299, 0.587, 0.114))
    return "white" if luma < 110 else "black"


def draw_labels(
    picture: Image.Image, boxes: np.ndarray, labels: Sequence[str], colors: Sequence[str]
) -> None:
    """Write each label at its box, in place.

    Args:
        picture: the RGB picture to write on.
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the picture.
        labels: R texts, the most important first; an empty one is not drawn.
        colors: R colours, as ``#RRGGBB``.
    """
    draw = ImageDraw.Draw(picture)
    shown = [i for i, label in enumerate(labels) if label]
    fonts = {i: _font(15, labels[i]) for i in shown}
    extents = [draw.textbbox((0, 0), labels[i], font=fonts[i])[2:] for i in shown]
    sizes = [(int(width) + 4, int(height) + 3) for width, height in extents]
    places = place_labels(np.asarray(boxes).reshape(-1, 4)[shown], sizes, picture.size)
    for i, (left, top, right, bottom) in zip(shown, places, strict=True):
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colors[i])
        draw.text((left + 2, top), labels[i], fill=_text_color(colors[i]), font=fonts[i])


def place_labels(
    boxes: np.ndarray, sizes: Sequence[tuple[int, int]], picture_size: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """Find places for labels, one after the other, clear of the earlier ones where possible.

    A label goes above its box, below it, or inside at its top or bottom, at its left or right end.
    If all of these are taken, it goes where it covers the least. Supervision spreads labels too,
    but it moves them away from their boxes, and onto each other at the border of the picture.

    Args:
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the picture.
        sizes: R widths and heights, in pixels.
        picture_size: width and height, in pixels.

    Returns:
        R places, x0 y0 x1 y1 in pixels; inside the picture if the label is no larger than it.
    """
    placed = np.zeros((0, 4), dtype=int)
    corners = np.round(np.asarray(boxes, dtype=np.float64)).astype(int)
    for (x0, y0, x1, y1), (width, height) in zip(corners.tolist(), sizes, strict=True):
        tops = (y0 - height, y1 + 1, y0 + 2, y1 - height - 1)
        starts = np.array([(left, top) for top in tops for left in (x0, x1 - width)])
        room = np.subtract(picture_size, (width, height))
        starts = np.minimum(starts, room).clip(min=0)
        places = np.hstack([starts, starts + (width, height)])
        first = np.maximum(places[:, None, :2], placed[:, :2])
        last = np.minimum(places[:, None, 2:], placed[:, 2:])
        covered = (last - first).clip(min=0).prod(axis=-1).sum(axis=-1)
        placed = np.vstack([placed, places[covered.argmin()]])
    return [tuple(place) for place in placed.tolist()]


def text_block(text: str, width: int, *, lines: int = 1, size: int = 16) -> np.ndarray:
    """Write black text on white, in a smaller font where a line would not fit.

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
        while fitting > 8 and draw.textlength(line, font=_font(fitting, line)) > width - 4:
            fitting -= 1
        draw.text((2, i * (size + 6) + 1), line, fill="black", font=_font(fitting, line))
    return np.array(canvas)


def stack(pictures: Sequence[np.ndarray], *, gap: int = 0, margin: int = 0) -> np.ndarray:
    """Put pictures below each other on white, aligned at the left.

    Args:
        pictures: one or several.
        gap, margin: the space between two pictures and around all of them, in pixels.
    """
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        space = ((0, gap), (0, width - picture.shape[1]), (0, 0))
        rows.append(np.pad(picture, space, constant_values=255))
    whole = np.concatenate(rows)[: -gap or None]
    return np.pad(whole, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)


def beside(pictures: Sequence[np.ndarray], *, gap: int = 0) -> np.ndarray:
    """Put pictures beside each other on white, aligned at the top; see :func:`stack`."""
    return stack([picture.swapaxes(0, 1) for picture in pictures], gap=gap).swapaxes(0, 1)


def side_by_side(pictures: Mapping[str, np.ndarray]) -> Image.Image:
    """Put pictures beside each other, each below its title, whose font shrinks until it fits."""
    titled = [
        stack([text_block(title, picture.shape[1]), picture]) for title, picture in pictures.items()
    ]
    return Image.fromarray(beside(titled, gap=8))


def legend(words: Sequence[str], colors: Sequence[str]) -> np.ndarray:
    """Draw a strip of words, each on its colour (``#RRGGBB``)."""
    widths = [int(_font(15, word).getlength(word)) + 16 for word in words]
    canvas = Image.new("RGB", (max(1, sum(widths) + 6 * len(widths)), 26), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for word, color, width in zip(words, colors, widths, strict=True):
        draw.rectangle((left, 2, left + width, 23), fill=color)
        draw.text((left + 8, 3), word, fill=_text_color(color), font=_font(15, word))
        left += width + 6
    return np.array(canvas)
