"""Boxes and masks on an image, and images beside each other."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torchvision.utils import draw_bounding_boxes

from ..structures import RegionMasks
from .labels import draw_labels
from .layout import beside, stack, text_block

__all__ = ["PALETTE", "class_color", "draw_boxes", "draw_masks", "side_by_side"]

# Okabe and Ito's colours, which people with any colour vision tell apart, without black.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def class_color(index: int) -> str:
    """The colour of a class, the same in every picture."""
    return PALETTE[index % len(PALETTE)]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[str],
    scale: float = 1.0,
    *,
    width: int = 3,
    dashed: Sequence[bool] = (),
) -> np.ndarray:
    """Draw labelled boxes, with a thin dark rim that is seen on a ground of their own colour.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the image.
        labels: R texts.
        colors: R colours, as ``#RRGGBB``.
        scale: how much larger than the image the picture is.
        width: of a line, in pixels of the picture.
        dashed: for each box whether white dashes are on it, which tell where colours do not; none
            is as many times False.

    Returns:
        (H * scale, W * scale, 3) uint8, RGB.
    """
    picture = Image.fromarray(image)
    if scale != 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    if not len(boxes):
        return np.array(picture)
    boxes = np.asarray(boxes) * scale
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    corners = torch.as_tensor(boxes)
    rim = corners + corners.new_tensor([-1, -1, 1, 1])
    pixels = draw_bounding_boxes(pixels, rim, colors="black", width=width + 2)
    pixels = draw_bounding_boxes(pixels, corners, colors=list(colors), width=width)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    # Labels come last: dashes through them could not be read.
    if len(dashed):
        _dash(picture, boxes[np.asarray(dashed, dtype=bool)], width)
    draw_labels(picture, boxes, labels, colors)
    return np.array(picture)


def draw_masks(
    image: np.ndarray,
    masks: np.ndarray | RegionMasks,
    labels: Sequence[str],
    colors: Sequence[str],
    scale: float = 1.0,
) -> np.ndarray:
    """Draw labelled masks: translucent, with an outline; large ones below small ones.

    Args:
        image: (H, W, 3) uint8, RGB.
        masks: R masks of the image, as (R, H, W) bool or compact.
        labels: R texts; that of an empty mask is left out.
        colors: R colours, as ``#RRGGBB``.
        scale: how much larger than the image the picture is.

    Returns:
        (H * scale, W * scale, 3) uint8, RGB.
    """
    compact = isinstance(masks, RegionMasks)
    assert (masks.image_size if compact else masks.shape[1:]) == image.shape[:2]
    assert len(masks) == len(labels) == len(colors), (len(masks), len(labels), len(colors))
    picture = Image.fromarray(image)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    pixels = np.array(picture.resize(size, Image.Resampling.BICUBIC))
    if compact:
        masks = masks.scaled(*size[::-1])
    areas = masks.areas().numpy(force=True) if compact else np.sum(masks, axis=(1, 2))
    boxes = {}
    # One after the other, since a thousand masks of a large image do not fit in memory.
    for i in np.argsort(-areas, kind="stable").tolist():
        mask = masks.paste(i)[0].numpy() if compact else _resized(masks[i], size)
        if mask.any():
            boxes[i] = _box_of(mask)
            _draw_mask(pixels, mask, boxes[i], colors[i])
    picture = Image.fromarray(pixels)
    drawn = sorted(boxes)
    draw_labels(
        picture,
        np.array([boxes[i] for i in drawn]),
        [labels[i] for i in drawn],
        [colors[i] for i in drawn],
    )
    return np.array(picture)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, resized to a width and a height."""
    levels = Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255)
    return np.asarray(levels.resize(size, Image.Resampling.BILINEAR)) >= 128


def _draw_mask(
    pixels: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], color: str
) -> None:
    """Fill and outline a mask, in place, within its box."""
    left, top, right, bottom = box
    window, mask = pixels[top:bottom, left:right], mask[top:bottom, left:right]
    paint = np.array(ImageColor.getrgb(color))
    window[mask] = np.round(0.65 * window[mask] + 0.35 * paint)
    # An outline of two pixels: what an erosion takes away, also at the border of the image.
    outside = torch.from_numpy(np.pad(~mask, 2, constant_values=True))[None].float()
    near = torch.nn.functional.max_pool2d(outside, 5, 1)[0].numpy() > 0
    window[mask & near] = paint


def _box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Of a mask that has a pixel."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def _dash(picture: Image.Image, boxes: np.ndarray, width: int) -> None:
    """White dashes on boxes that are drawn, in place."""
    draw = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in np.round(boxes).tolist():
        for left in np.arange(x0 + 5, x1 - 4, 10):
            for y in (y0, y1):
                draw.line((left, y, min(left + 4, x1), y), fill="white", width=width)
        for top in np.arange(y0 + 5, y1 - 4, 10):
            for x in (x0, x1):
                draw.line((x, top, x, min(top + 4, y1)), fill="white", width=width)


def side_by_side(pictures: dict[str, np.ndarray]) -> Image.Image:
    """Put pictures beside each other, each under its title, which is made to fit."""
    titled = [
        stack([text_block(title, picture.shape[1]), picture]) for title, picture in pictures.items()
    ]
    return Image.fromarray(beside(titled, gap=8))
