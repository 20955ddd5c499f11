"""The detections that an evaluation wrote, read and checked."""

import math
from typing import Any

from pycocotools.coco import COCO

from ..utils.errors import UserError
from ..utils.files import read_json


def read_detections(path: str, truth: COCO) -> list[dict[str, Any]]:
    """Read and check the detections that an evaluation wrote.

    Args:
        path: a ``coco_instances_results.json``.
        truth: the annotations of its data set.

    Returns:
        the detections in COCO's form, without their masks.

    Raises:
        UserError: if the file has another form, or is of another data set.
    """
    results = read_json(path)
    if not isinstance(results, list):
        raise UserError(f"{path} is no list of results; evaluate the model again")
    detections = []
    for number, result in enumerate(results):
        try:
            fields = {key: result[key] for key in ("image_id", "category_id", "bbox", "score")}
            values = [float(value) for value in (fields["score"], *fields["bbox"])]
            ids = {"image": fields["image_id"], "category": fields["category_id"]}
            sound = len(values) == 5 and all(map(math.isfinite, values))
            sound = sound and all(isinstance(id, (int, float, str)) for id in ids.values())
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise UserError(
                f"{path}: entry {number} is no detection with image_id, category_id, bbox and "
                "score; evaluate the model again"
            )
        for kind, known in (("image", truth.imgs), ("category", truth.cats)):
            if ids[kind] not in known:
                raise UserError(
                    f"{path}: there is no {kind} {ids[kind]} in the annotations of its data set, "
                    "so it is of another one or of an earlier one; evaluate the model again"
                )
        # Without its mask; the key keeps pycocotools from making a polygon of each box.
        detections.append({**fields, "segmentation": None})
        results[number] = None
    return detections
