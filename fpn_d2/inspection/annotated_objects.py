"""The objects of an annotation file in COCO's format as arrays, whatever else the file holds.

Shape shorthand: N images, R objects of all images together.
"""

import collections
import contextlib
import dataclasses
import os
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import check_names
from ..data.annotation_file import file_name, image_size, is_number
from ..data.validation import read_annotations
from ..utils.errors import UserError

_REMEDY = "add some; tools/check_dataset.py lists what is wrong with a file"


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedObjects:
    """The objects that a detector has to find in a data set.

    Args:
        annotation_file: its path.
        image_folder: the folder in which the file names of the images begin.
        file_names: N file names, relative to the folder.
        image_sizes: (N, 2) int64, height and width of each image in pixels.
        boxes: (R, 4) float64, x0 y0 x1 y1 in pixels of the image, clipped to it.
        images: (R,) int64, the index of each object's image.
        classes: (R,) int64, the index of each object's class in ``class_names``.
        class_names: the names of the classes, in the order of the file.
        left_out: the number of annotations that are not among the objects, by the reason.
    """

    annotation_file: str
    image_folder: str
    file_names: list[str]
    image_sizes: np.ndarray
    boxes: np.ndarray
    images: np.ndarray
    classes: np.ndarray
    class_names: list[str]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.boxes)


def dataset_files(dataset: str) -> tuple[str, str]:
    """Find the annotation file of a data set and the folder of its images.

    Args:
        dataset: a registered name, or an annotation file, whose images are in ``images/`` beside
            its folder.

    Returns:
        the two paths, which need not exist.

    Raises:
        UserError: if the name is not registered, or the data set is not in COCO's format.
    """
    if dataset not in DatasetCatalog and (os.path.isfile(dataset) or dataset.endswith(".json")):
        above = os.path.dirname(os.path.dirname(os.path.abspath(dataset)))
        return dataset, os.path.join(above, "images")
    check_names([dataset], "the command line")
    known = MetadataCatalog.get(dataset)
    if not known.get("json_file") or not known.get("image_root"):
        raise UserError(f"data set {dataset} has no annotation file: this reads COCO's format")
    if not os.path.isfile(known.json_file):
        # The built-in data sets write theirs on first use.
        with contextlib.suppress(OSError, AssertionError):
            DatasetCatalog.get(dataset)
    return known.json_file, known.image_root


def read_objects(path: str, image_folder: str) -> AnnotatedObjects:
    """Read the objects of an annotation file; no image is opened.

    Crowd regions are no objects, as in training. An annotation without a sound box, an image or a
    category is left out and counted.

    Args:
        path: the annotation file.
        image_folder: the folder in which the file names of its images begin.

    Returns:
        the objects, at least one.

    Raises:
        UserError: if the file does not exist, is not in COCO's format or has no objects.
    """
    if not os.path.isfile(path):
        raise UserError(f"annotation file {path} does not exist: correct its path")
    content, sentence = read_annotations(path)
    if sentence is not None:
        raise UserError(sentence)
    images = [i for i in _entries(content, "images", path) if file_name(i) and image_size(i)]
    if not images:
        raise UserError(f"{path} has no images with a file_name, a width and a height: {_REMEDY}")
    image_index = {_key(image): i for i, image in enumerate(images)}
    categories = _entries(content, "categories", path)
    class_index = {_key(category): i for i, category in enumerate(categories)}
    kept, left_out = [], collections.Counter()
    for entry in _entries(content, "annotations", path):
        image = image_index.get(_key(entry, "image_id"))
        category = class_index.get(_key(entry, "category_id"))
        box = None if image is None else _box(entry.get("bbox"), *image_size(images[image]))
        if entry.get("iscrowd"):
            left_out["crowd regions"] += 1
        elif image is None or category is None:
            left_out["of no known image or category"] += 1
        elif box is None:
            left_out["without a box of some area on the image"] += 1
        else:
            kept.append((image, category, box))
    if not kept:
        raise UserError(f"{path} has no annotations with a box: {_REMEDY}")
    image, category, box = (np.array(values) for values in zip(*kept, strict=True))
    return AnnotatedObjects(
        annotation_file=path,
        image_folder=image_folder,
        file_names=[image["file_name"] for image in images],
        image_sizes=np.array([image_size(image)[::-1] for image in images], dtype=np.int64),
        boxes=box,
        images=image,
        classes=category,
        class_names=[str(category.get("name", _key(category))) for category in categories],
        left_out=dict(left_out),
    )


def _entries(content: Any, key: str, path: str) -> list[dict[str, Any]]:
    """The entries of a list of the file that are objects of JSON."""
    found = content.get(key, []) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{path} has no list named {key}, as COCO's format has: {_REMEDY}")
    return [entry for entry in found if isinstance(entry, dict)]


def _key(entry: dict[str, Any], name: str = "id") -> Any:
    """An id of any kind; None if no dictionary takes it as a key."""
    value = entry.get(name)
    return value if isinstance(value, (int, str)) else None


def _box(box: Any, width: int, height: int) -> tuple[float, float, float, float] | None:
    """A bbox as x0 y0 x1 y1, clipped to the image; None if nothing is left of it."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return None
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    left, right = (min(max(float(x), 0.0), float(width)) for x in (left, right))
    top, bottom = (min(max(float(y), 0.0), float(height)) for y in (top, bottom))
    return (left, top, right, bottom) if right > left and bottom > top else None
