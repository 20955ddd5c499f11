"""Annotation files in COCO's format, from a few words."""

from collections.abc import Sequence
from typing import Any


def coco_image(number: int, width: int, height: int, file_name: str = "") -> dict[str, Any]:
    """Return an image, by default called after its number: ``1.png``."""
    name = file_name or f"{number}.png"
    return {"id": number, "file_name": name, "width": width, "height": height}


def coco_object(
    number: int, image_id: int, box: Sequence[float], category_id: int = 1, **more: Any
) -> dict[str, Any]:
    """Return an annotation of a box: left, top, width and height; it is no crowd."""
    ids = {"id": number, "image_id": image_id, "category_id": category_id}
    return {**ids, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0, **more}


def coco_content(images: list[dict], annotations: list[dict], *classes: str) -> dict[str, Any]:
    """Return the content of a file whose classes count from 1."""
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
