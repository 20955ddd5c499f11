"""Annotation files in COCO's format and folders of data sets, from a few words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fpn_d2.data.datasets import register_folders

WIDTH, HEIGHT = 40, 32  # of the images that write_coco writes


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


def sound_content(images: int = 4) -> dict[str, Any]:
    """Return a sound file's content: two classes, a box in each image but the empty last one."""
    return coco_content(
        [coco_image(i + 1, WIDTH, HEIGHT, f"{i}.png") for i in range(images)],
        [coco_object(i + 1, i + 1, [2 + i, 3, 10, 12], 1 + i % 2) for i in range(images - 1)],
        *("cat", "dog"),
    )


def masked_content() -> dict[str, Any]:
    """Return the same with a mask for each object: polygons and an RLE."""
    content = sound_content()
    polygon, rle = [[3, 3, 9, 3, 9, 9]], {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT]}
    for annotation, mask in zip(content["annotations"], (polygon, rle, polygon), strict=True):
        annotation["segmentation"] = mask
    return content


def write_coco(root: Path, name: str, split: str, content: Any) -> Path:
    """Write ``<root>/<name>/`` with four images and this annotation file; return its path."""
    file = f"annotations/instances_{split}.json"
    text = content if isinstance(content, str) else json.dumps(content)
    colors = {f"images/{i}.png": (50 * i,) * 3 for i in range(4)}
    images = {path: Image.new("RGB", (WIDTH, HEIGHT), color) for path, color in colors.items()}
    write_files(root / name, {file: text, **images})
    return root / name / file


def write_files(root: Path, files: dict[str, str | Image.Image | tuple[int, int]]) -> None:
    """Write files by their paths below a root: texts, images, or black images of a given (width,
    height)."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            image = Image.new("RGB", content) if isinstance(content, tuple) else content
            image.save(path)


def load_folder(root: Path, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Register the folders below a root; return the records of a data set and its classes."""
    register_folders(str(root))
    records = DatasetCatalog.get(name)
    return records, MetadataCatalog.get(name).thing_classes
