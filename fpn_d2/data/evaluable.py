"""What COCO's evaluation asks of an annotation file, and Detectron2's loader does not keep."""

import functools
import os
from typing import Any

from detectron2.data import MetadataCatalog

from ..utils.errors import UserError
from .dataset_check import read_annotations
from .datasets.folders import is_local
from .mask_faults import is_number

__all__ = ["check_evaluable"]


def check_evaluable(name: str) -> None:
    """Check that every annotation of a data set has the fields that it is evaluated by.

    COCO's evaluation counts an object of id 0 as missed although it was found, and stops where an
    annotation has no area or no iscrowd, which would be after a training.

    Args:
        name: the data set, already loaded; one without a COCO file of this machine is let through.

    Raises:
        UserError: naming the file, the annotation and its image.
    """
    path = getattr(MetadataCatalog.get(name), "json_file", None)
    if path is None or not is_local(path) or not os.path.isfile(path):
        return
    stat = os.stat(path)
    sentence = _fault(path, stat.st_mtime_ns, stat.st_size)
    if sentence:
        raise UserError(sentence)


@functools.lru_cache
def _fault(path: str, mtime: int, size: int) -> str | None:
    """The first fault of a file, which is read once for as long as it is not changed."""
    content, sentence = read_annotations(path)
    if sentence:
        return sentence
    annotations = content.get("annotations", ())  # files of COCO's test images have none
    for number, annotation in enumerate(annotations):
        field = _lacking(annotation)
        if field is None:
            continue
        found = f"the {field} {annotation[field]!r}" if field in annotation else f"no {field}"
        count = sum(_lacking(other) is not None for other in annotations)
        image_id = annotation["image_id"]
        images = content["images"]
        file = next((image["file_name"] for image in images if image["id"] == image_id), image_id)
        return (
            f"{path}: entry {number} of annotations (image {file}) has {found}, and COCO's "
            f"evaluation needs {_NEEDED[field]} ({count} of {len(annotations)} annotations are "
            "such): correct them"
        )
    return None


_NEEDED = {
    "id": "a whole number from 1 on",
    "area": "the area in pixels",
    "iscrowd": "0, or 1 for a crowd",
}


def _lacking(annotation: dict[str, Any]) -> str | None:
    """The first field that is not as it is needed."""
    number = annotation.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**63:
        return "id"
    if not is_number(annotation.get("area")):
        return "area"
    return None if annotation.get("iscrowd") in (0, 1) else "iscrowd"
