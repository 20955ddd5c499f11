"""Pictures of a data set's images: objects, matched anchors, and what training makes of them.

Pictures are (H, W, 3) uint8, RGB.
"""

import os
from typing import Any

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BoxMode
from PIL import Image

from ..config import changed
from ..data.dataset_mapper import build_train_mapper, map_record
from ..data.images import read_image, read_sound_image
from ..data.stream import seeded
from ..utils.errors import UserError
from ..utils.progress import told
from ..visualization import draw_boxes, level_color, level_number, side_by_side
from ..visualization.layout import stack
from .measurements import Inspection

_LABELS_SHOWN = 25  # on an image: a hundred would hide it
_SIDE, _AUGMENTED_SIDE = 640, 320  # pixels of a picture's longer side
_TIMES_AUGMENTED = 3  # per image


def draw_samples(
    inspection: Inspection, number: int, augmented: int = 0
) -> tuple[list[tuple[str, Image.Image]], list[str]]:
    """Draw images with their objects, and with the anchors that training would match.

    Args:
        inspection: the measurements.
        number: how many images with objects to draw; the same ones every time.
        augmented: how many of them, from the first on, have :func:`draw_augmented`'s picture below.

    Returns:
        the name and the picture of each image, and a sentence for each that cannot be drawn.
    """
    objects, missing = inspection.objects, set(inspection.missing)
    images = [i for i in np.unique(objects.images).tolist() if objects.file_names[i] not in missing]
    chosen = np.random.default_rng(0).permutation(images)[:number]
    samples, faults = [], []
    for image in told("drawing samples", sorted(chosen.tolist())):
        name = objects.file_names[image]
        try:
            pixels = read_sound_image(_record(inspection, image))
        except UserError as error:
            faults.append(str(error))
            continue
        picture = _draw_sample(inspection, image, pixels)
        if len(samples) < augmented:
            both = [np.asarray(picture), np.asarray(draw_augmented(inspection, image))]
            picture = Image.fromarray(stack(both))
        samples.append((name, picture))
    return samples, faults


def _record(inspection: Inspection, image: int) -> dict[str, Any]:
    """Return the record of an image in Detectron2's format."""
    objects = inspection.objects
    which = np.flatnonzero(objects.images == image)
    boxes, classes = objects.boxes[which].tolist(), objects.classes[which].tolist()
    height, width = objects.image_sizes[image].tolist()
    return {
        "file_name": os.path.join(objects.image_folder, objects.file_names[image]),
        "height": height,
        "width": width,
        "image_id": image,
        "annotations": [
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": category,
                # INPUT.OBJECT_SCALE_TRAIN makes boxes of masks; here each box is its own mask.
                "segmentation": [[box[i] for i in (0, 1, 2, 1, 2, 3, 0, 3)]],
            }
            for box, category in zip(boxes, classes, strict=True)
        ],
    }


def _draw_sample(inspection: Inspection, image: int, pixels: np.ndarray) -> Image.Image:
    objects, setup = inspection.objects, inspection.setup
    which = np.flatnonzero(objects.images == image)
    boxes, levels = objects.boxes[which], inspection.levels[which].tolist()
    scale = _SIDE / max(pixels.shape[:2])
    classes = [objects.class_names[c] for c in objects.classes[which]]
    labels = [f"{name} P{level}" for name, level in zip(classes, levels, strict=True)]
    labels = labels if len(labels) <= _LABELS_SHOWN else [""] * len(labels)
    unreached = ~inspection.reached[which]
    colors = [level_color(k) for k in levels]
    annotated = draw_boxes(pixels, boxes, labels, colors, scale, dashed=unreached)
    anchors, levels, _ = inspection.positive_anchors(setup.generator(setup.sizes), which)
    # From the network input back to the image; the largest object gives the most exact factors.
    largest = int(np.argmax(inspection.sides[which]))
    both = boxes[largest], inspection.input_boxes[which[largest]]
    factors = np.divide(*(box[2:] - box[:2] for box in both))
    colors = [level_color(level_number(setup.features[k])) for k in levels.tolist()]
    back = anchors.numpy() * np.tile(factors, 2)
    matched = draw_boxes(pixels, back, [""] * len(colors), colors, scale)
    return side_by_side(
        {
            f"{len(which)} objects by level; dashed: {unreached.sum()} without anchor": annotated,
            f"the {len(colors)} anchors matched, by level": matched,
        }
    )


def draw_augmented(inspection: Inspection, image: int) -> Image.Image:
    """Draw an image with its objects, and beside it what the training's mapper makes of them.

    Args:
        inspection: the measurements; its config says what is done to images.
        image: the index of an image that can be read; each call draws the same picture.
    """
    objects, cfg = inspection.objects, inspection.setup.cfg
    record = _record(inspection, image)
    mapper = build_train_mapper(
        changed(cfg, {"MODEL.LOAD_PROPOSALS": False, "MODEL.KEYPOINT_ON": False})
    )
    own = _draw_plain(read_image(record["file_name"]), objects.boxes[objects.images == image])
    pictures = {f"{record['width']} x {record['height']}, as it is": own}
    for number in range(1, _TIMES_AUGMENTED + 1):
        with seeded(0, image, number):
            mapped = map_record(mapper, record)
        pixels = convert_image_to_rgb(mapped["image"].permute(1, 2, 0), cfg.INPUT.FORMAT)
        height, width = pixels.shape[:2]
        drawn = _draw_plain(pixels, mapped["instances"].gt_boxes.tensor.numpy())
        pictures[f"in training, {number}: {width} x {height}"] = drawn
    return side_by_side(pictures)


def _draw_plain(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    scale = _AUGMENTED_SIDE / max(pixels.shape[:2])
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    return draw_boxes(pixels, boxes, [""] * len(boxes), [level_color(2)] * len(boxes), scale)
