"""What an evaluation found, beside what there is."""

import json
import os
from collections import defaultdict
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image

from ..evaluation import load_ground_truth
from ..utils.errors import UserError
from .drawing import class_color, draw_boxes, side_by_side

__all__ = ["draw_results"]


def draw_results(
    inference_dir: str, output_dir: str, *, num_images: int = 12, threshold: float = 0.5
) -> list[str]:
    """Draw detections beside the ground truth, for the first images of an evaluated data set.

    Args:
        inference_dir: ``<OUTPUT_DIR>/inference/<data set>``, as an evaluation left it.
        output_dir: where the pictures go; made where it is missing.
        num_images: how many images.
        threshold: the least score of a detection that is drawn.

    Returns:
        the files written.

    Raises:
        UserError: where the folder has no detections, or its data set is not there.
    """
    detections = _read_detections(inference_dir, threshold)
    coco, image_root = load_ground_truth(os.path.basename(os.path.normpath(inference_dir)))
    names = {i: coco.cats[i]["name"] for i in sorted(coco.cats)}
    os.makedirs(output_dir, exist_ok=True)
    files = []
    for image_id in sorted(coco.imgs)[:num_images]:
        info = coco.imgs[image_id]
        image = read_image(os.path.join(image_root, info["file_name"]), format="RGB")
        picture = side_by_side(
            {
                "ground truth": _draw(image, coco.imgToAnns[image_id], names),
                f"detections (score >= {threshold:g})": _draw(image, detections[image_id], names),
            }
        )
        stem = os.path.splitext(os.path.basename(info["file_name"]))[0]
        files.append(os.path.join(output_dir, f"{stem}.png"))
        picture.save(files[-1])
    return files


def _read_detections(inference_dir: str, threshold: float) -> dict[int, list[dict[str, Any]]]:
    path = os.path.join(inference_dir, "coco_instances_results.json")
    if not os.path.isfile(path):
        raise UserError(
            f"{path} does not exist; evaluate the model first, with train_net.py --eval-only"
        )
    detections = defaultdict(list)
    with open(path) as file:
        for detection in json.load(file):
            if detection["score"] >= threshold:
                detections[detection["image_id"]].append(detection)
    return detections


def _draw(image: np.ndarray, objects: list[dict[str, Any]], names: dict[int, str]) -> np.ndarray:
    """Draw COCO-format objects, detections (with a score) or annotations."""
    boxes = np.array([o["bbox"] for o in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = [f" {o['score']:.2f}" if "score" in o else "" for o in objects]
    labels = [names[o["category_id"]] + score for o, score in zip(objects, scores, strict=True)]
    ids = list(names)
    colors = [class_color(ids.index(o["category_id"])) for o in objects]
    # small images are drawn larger, so that their labels can be read
    return draw_boxes(image, boxes, labels, colors, scale=max(1.0, 640 / max(image.shape[:2])))
