"""Labelled boxes and masks on an image, drawn by supervision.

Shape shorthand: an image of H x W pixels with R boxes or masks. Pictures are uint8, RGB.
"""

from collections.abc import Sequence

import numpy as np
import supervision as sv
from detectron2.structures import Instances
from PIL import Image, ImageDraw

from ..structures import RegionMasks
from .layout import draw_labels, picture_scale

# The colours of Okabe and Ito without black: people with any colour vision can tell them apart.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_OPACITY = 0.35  # of a mask's fill
_THICKNESS = 2  # OpenCV draws it as three pixels, and the rim of 4 as five


def class_color(index: int) -> str:
    """Return the colour of a class as ``#RRGGBB``; it is the same in every picture."""
    return PALETTE[index % len(PALETTE)]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[str],
    scale: float = 1.0,
    *,
    dashed: Sequence[bool] = (),
) -> np.ndarray:
    """Draw labelled boxes; a thin dark rim sets them off from a ground of their own colour.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (R, 4), x0 y0 x1 y1 in pixels of the image.
        labels: R texts; an empty one is not drawn.
        colors: R colours, as ``#RRGGBB``.
        scale: the size of the picture relative to the image.
        dashed: R flags; flagged boxes get white dashes, which tell them apart without colour.
            Empty for no dashes.

    Returns:
        (H * scale, W * scale, 3) uint8, RGB.
    """
    picture = _resized(Image.fromarray(image), scale)
    if not len(boxes):
        return np.array(picture)
    corners = np.round(np.asarray(boxes) * scale)
    found, palette = sv.Detections(xyxy=corners), sv.ColorPalette.from_hex(list(colors))
    sv.BoxAnnotator(sv.Color.BLACK, _THICKNESS + 2, sv.ColorLookup.INDEX).annotate(picture, found)
    sv.BoxAnnotator(palette, _THICKNESS, sv.ColorLookup.INDEX).annotate(picture, found)
    # Labels come last because dashes across them would make them illegible.
    if len(dashed):
        _draw_dashes(picture, corners[np.asarray(dashed, dtype=bool)])
    draw_labels(picture, corners, labels, colors)
    return np.array(picture)


def draw_masks(
    image: np.ndarray,
    masks: np.ndarray | RegionMasks,
    labels: Sequence[str],
    colors: Sequence[str],
    scale: float = 1.0,
) -> np.ndarray:
    """Draw labelled masks with a translucent fill and a solid outline, small ones on large ones.

    Args:
        image, colors, scale: see :func:`draw_boxes`, which returns the same kind of picture.
        masks: R masks of the image, as (R, H, W) bool or ``RegionMasks``.
        labels: R texts; an empty mask gets none.
    """
    compact = isinstance(masks, RegionMasks)
    assert (masks.image_size if compact else masks.shape[1:]) == image.shape[:2]
    assert len(masks) == len(labels) == len(colors), (len(masks), len(labels), len(colors))
    # supervision draws on BGR.
    picture = np.array(_resized(Image.fromarray(image), scale))[:, :, ::-1].copy()
    if compact:
        masks = masks.scaled(*picture.shape[:2])
    areas = masks.areas().numpy(force=True) if compact else np.sum(masks, axis=(1, 2))
    boxes = {}
    # One by one: a thousand masks of a large image do not fit into memory.
    for i in np.argsort(-areas, kind="stable").tolist():
        if compact:
            mask = masks[i].paste()[0].numpy()
        else:
            mask = np.array(_resized(Image.fromarray(np.uint8(masks[i]) * 255), scale)) >= 128
        if mask.any():
            boxes[i] = sv.mask_to_xyxy(mask[None])[0]
            picture = _draw_mask(picture, mask, boxes[i], sv.Color.from_hex(colors[i]))
    drawn = sorted(boxes)
    canvas = Image.fromarray(picture[:, :, ::-1])
    texts, paints = [labels[i] for i in drawn], [colors[i] for i in drawn]
    draw_labels(canvas, np.array([boxes[i] for i in drawn]), texts, paints)
    return np.array(canvas)


def draw_detections(
    image: np.ndarray, detections: Instances, names: Sequence[str] = ()
) -> np.ndarray:
    """Draw boxes or masks with classes and scores; enlarge a small image, shrink a large one.

    Args:
        image: (H, W, 3) uint8, RGB; the returned picture is uint8, RGB, too.
        detections: R detections; see :meth:`fpn_d2.inference.Predictor.detect`.
        names: the names of the classes; see :func:`fpn_d2.inference.classes_of`.
    """
    texts, scale = detection_texts(detections, names), picture_scale(image)
    # Without classes, successive detections differ in colour.
    kinds = detections.get_fields().get("pred_classes", np.arange(len(detections))).tolist()
    colors = [class_color(kind) for kind in kinds]
    if not detections.has("pred_masks"):
        return draw_boxes(image, detections.pred_boxes.tensor.numpy(), texts, colors, scale)
    masks = detections.pred_masks
    masks = masks if isinstance(masks, RegionMasks) else masks.numpy()
    return draw_masks(image, masks, texts, colors, scale)


def detection_texts(detections: Instances, names: Sequence[str] = ()) -> list[str]:
    """Return the class and the score of each detection as text.

    Args:
        detections: R detections; those without classes get their scores alone.
        names: the names of the classes; a class beyond them is called ``class 7``.
    """
    scores = [f"{score:.2f}" for score in detections.scores.tolist()]
    if not detections.has("pred_classes"):
        return scores
    kinds = detections.pred_classes.tolist()
    titles = [names[kind] if kind < len(names) else f"class {kind}" for kind in kinds]
    return [f"{title} {score}" for title, score in zip(titles, scores, strict=True)]


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


def _draw_mask(
    picture: np.ndarray, mask: np.ndarray, box: np.ndarray, color: sv.Color
) -> np.ndarray:
    """Return a BGR picture with a mask (H, W) filled and outlined; nothing outside it changes."""
    found, lookup = sv.Detections(xyxy=box[None], mask=mask[None]), sv.ColorLookup.INDEX
    filled = sv.MaskAnnotator(color, _OPACITY, lookup).annotate(picture.copy(), found)
    outlined = sv.PolygonAnnotator(color, _THICKNESS, lookup).annotate(filled, found)
    return np.where(mask[:, :, None], outlined, picture)


def _draw_dashes(picture: Image.Image, boxes: np.ndarray) -> None:
    """Put white dashes onto the sides of boxes, in place."""
    draw = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in boxes.tolist():
        lines = [(x, y, min(x + 4, x1), y) for x in np.arange(x0 + 5, x1 - 4, 10) for y in (y0, y1)]
        lines += [
            (x, y, x, min(y + 4, y1)) for y in np.arange(y0 + 5, y1 - 4, 10) for x in (x0, x1)
        ]
        for line in lines:
            draw.line(line, fill="white", width=3)
