"""What mask proposals found, beside what there is."""

import json
import os
from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.detection_utils import read_image

from ..evaluation import load_ground_truth
from ..utils.errors import UserError
from .drawing import class_color, draw_masks, side_by_side

__all__ = ["draw_mask_proposals"]


def draw_mask_proposals(
    inference_dir: str, output_dir: str, *, num_images: int = 12, proposals: int = 100
) -> list[str]:
    """Draw, for each object, the mask that fits it best among an image's first proposals.

    Every object has a colour, on both sides, and the proposal's IoU with it stands on its mask;
    an object that no proposal meets at an IoU of 0.5 is labelled as missed.

    Args:
        inference_dir: ``<OUTPUT_DIR>/inference/<data set>``, as an evaluation left it.
        output_dir: where the pictures go; made where it is missing.
        num_images: how many images.
        proposals: how many of an image's proposals count; the evaluation keeps 100.

    Returns:
        the files written.

    Raises:
        UserError: where the folder has no mask proposals, or its data set is not there.
    """
    path = os.path.join(inference_dir, "mask_proposals.json")
    if not os.path.isfile(path):
        raise UserError(
            f"{path} does not exist; evaluate the model first, with train_net.py --eval-only"
        )
    best = defaultdict(list)
    with open(path, encoding="utf-8") as file:
        for proposal in json.load(file):
            best[proposal["image_id"]].append(proposal["segmentation"])
    coco, image_root = load_ground_truth(os.path.basename(os.path.normpath(inference_dir)))
    os.makedirs(output_dir, exist_ok=True)
    files = []
    for image_id in sorted(coco.imgs)[:num_images]:
        info = coco.imgs[image_id]
        image = read_image(os.path.join(image_root, info["file_name"]), format="RGB")
        objects = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd", 0)]
        truth = [coco.annToRLE(annotation) for annotation in objects]
        picture = _draw(image, truth, best[image_id][:proposals], proposals)
        stem = os.path.splitext(os.path.basename(info["file_name"]))[0]
        files.append(os.path.join(output_dir, f"{stem}.png"))
        picture.save(files[-1])
    return files


def _draw(image: np.ndarray, truth: list[dict], masks: list[dict], proposals: int) -> object:
    scale = max(1.0, 640 / max(image.shape[:2]))
    ious = np.zeros((1, len(truth)))
    if truth and masks:
        ious = np.asarray(mask_util.iou(masks, truth, [0] * len(truth)))
    found = [i for i in range(len(truth)) if ious[:, i].max() >= 0.5]
    colors = [class_color(i) for i in range(len(truth))]
    labels = ["" if i in found else "missed" for i in range(len(truth))]
    chosen = [masks[ious[:, i].argmax()] for i in found]
    ious_of_found = [f"{ious[:, i].max():.2f}" for i in found]
    own = [colors[i] for i in found]
    return side_by_side(
        {
            "ground truth": draw_masks(image, _decode(truth, image), labels, colors, scale),
            f"the best of the first {proposals} masks, and its IoU": draw_masks(
                image, _decode(chosen, image), ious_of_found, own, scale
            ),
        }
    )


def _decode(rles: list[dict], image: np.ndarray) -> np.ndarray:
    if not rles:
        return np.zeros((0, *image.shape[:2]), dtype=bool)
    return np.asarray(mask_util.decode(rles)).transpose(2, 0, 1).astype(bool)
