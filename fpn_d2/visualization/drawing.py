"""Boxes on an image, and images beside each other."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torchvision.transforms.functional import InterpolationMode, resize
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

__all__ = ["PALETTE", "class_color", "draw_boxes", "draw_masks", "side_by_side"]

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
    if not len(boxes):
        return np.array(picture)
    boxes = np.asarray(boxes) * scale
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    pixels = draw_bounding_boxes(pixels, torch.as_tensor(boxes), colors=list(colors), width=3)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    _draw_labels(picture, boxes, labels, colors)
    return np.array(picture)


def draw_masks(
    image: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[str],
    scale: float = 1.0,
) -> np.ndarray:
    """Draw labelled masks: translucent, with an outline; large ones below small ones.

    Args:
        image: (H, W, 3) uint8, RGB.
        masks: (R, H, W) bool.
        labels: R texts.
        colors: R colours, as ``#RRGGBB``.
        scale: how much larger than the image the picture is.

    Returns:
        (H * scale, W * scale, 3) uint8, RGB.
    """
    picture = Image.fromarray(image)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    if not len(masks):
        return np.array(picture)
    drawn = torch.from_numpy(np.asarray(masks, dtype=bool))
    if scale != 1:
        drawn = resize(drawn.float(), list(size[::-1]), InterpolationMode.BILINEAR) >= 0.5
    # An outline of two pixels: what an erosion takes away.
    outlines = drawn & (-torch.nn.functional.max_pool2d(-drawn.float(), 5, 1, 2) < 0.5)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    for i in drawn.sum(dim=(1, 2)).argsort(descending=True).tolist():
        pixels = draw_segmentation_masks(pixels, drawn[i], alpha=0.35, colors=colors[i])
        pixels = draw_segmentation_masks(pixels, outlines[i], alpha=1.0, colors=colors[i])
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    boxes = np.array([_box_of(mask) for mask in drawn.numpy()])
    _draw_labels(picture, boxes, labels, colors)
    return np.array(picture)


def _box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return (0, 0, 0, 0)
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def _draw_labels(
    picture: Image.Image, boxes: np.ndarray, labels: Sequence[str], colors: Sequence[str]
) -> None:
    """Write each label above its box, in place; torchvision would write it over a small object."""
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(_font_path(), 15)
    for (left, top, *_), label, color in zip(boxes, labels, colors, strict=True):
        width, height = draw.textbbox((0, 0), label, font=font)[2:]
        left = min(left, picture.width - width - 4)
        top = max(top - height - 4, 0)
        if label:
            draw.rectangle((left, top, left + width + 4, top + height + 2), fill=color)
            # ITU-R 601 luma: black is not legible on the palette's dark blue
            dark = np.dot(ImageColor.getrgb(color), (0.299, 0.587, 0.114)) < 110
            draw.text((left + 2, top), label, fill="white" if dark else "black", font=font)


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
