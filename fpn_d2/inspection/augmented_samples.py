"""Pictures of what a config's training makes of images: crop, augmentations, resize, flip."""

import os

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BoxMode
from PIL import Image

from ..config import changed
from ..data.dataset_mapper import build_train_mapper, map_record
from ..data.images import read_image
from ..utils.seeding import seeded
from ..visualization import draw_boxes, level_color, side_by_side
from .measurements import Inspection

_DRAWN = 3
_PICTURE_SIDE = 320  # pixels


def draw_augmented(inspection: Inspection, name: str) -> Image.Image:
    """Draw an image with its objects, and beside it what the training's mapper makes of them.

    Args:
        inspection: the measurements; its config says what is done to images.
        name: the file name of the image, which can be read; the same is drawn every time.
    """
    objects, cfg = inspection.objects, inspection.setup.cfg
    image = objects.file_names.index(name)
    which = np.flatnonzero(objects.images == image)
    path = os.path.join(objects.image_folder, name)
    # Masks of boxes stand for those that INPUT.OBJECT_SCALE_TRAIN makes boxes of.
    record = {
        "file_name": path,
        "height": int(objects.image_sizes[image][0]),
        "width": int(objects.image_sizes[image][1]),
        "image_id": image,
        "annotations": [
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": category,
                "segmentation": [[box[i] for i in (0, 1, 2, 1, 2, 3, 0, 3)]],
            }
            for box, category in zip(
                objects.boxes[which].tolist(), objects.classes[which].tolist(), strict=True
            )
        ],
    }
    mapper = build_train_mapper(
        changed(cfg, {"MODEL.LOAD_PROPOSALS": False, "MODEL.KEYPOINT_ON": False})
    )
    height, width = record["height"], record["width"]
    pictures = {f"{width} x {height}, as it is": _draw(read_image(path), objects.boxes[which])}
    for number in range(1, _DRAWN + 1):
        with seeded(0, image, number):
            mapped = map_record(mapper, record)
        pixels = convert_image_to_rgb(mapped["image"].permute(1, 2, 0), cfg.INPUT.FORMAT)
        boxes = mapped["instances"].gt_boxes.tensor.numpy()
        height, width = pixels.shape[:2]
        pictures[f"in training, {number}: {width} x {height}"] = _draw(pixels, boxes)
    return side_by_side(pictures)


def _draw(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    scale = _PICTURE_SIDE / max(pixels.shape[:2])
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    return draw_boxes(pixels, boxes, [""] * len(boxes), [level_color(2)] * len(boxes), scale)
