"""The objects of an annotation file in COCO's format as arrays, whatever else is in the file.

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
from ..data.annotation_file import file_name, image_size, is_number, read_annotations
from ..utils.errors import UserError

__all__ = ["AnnotatedObjects", "dataset_files", "read_objects"]


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedObjects:
    """What a data set has to find.

    Args:
        annotation_file, image_folder: where it lies.
        file_names: N names below the folder.
        image_sizes: (N, 2) int64, height and width in pixels of the image.
        boxes: (R, 4) float64, x0 y0 x1 y1 in pixels of the image, clipped to it.
        images: (R,) int64, the image that each object is on.
        classes: (R,) int64, into ``class_names``.
        class_names: in the order of the file.
        left_out: how many annotations are not among the objects, by the reason.
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
    """The annotation file of a data set and the folder of its images.

    Args:
        dataset: a registered name, or a file; its images are in ``images/`` beside its folder.

    Returns:
        two paths; nothing may be there.

    Raises:
        UserError: where the name is not registered, or is of no data set in COCO's format.
    """
    if dataset not in DatasetCatalog and (os.path.isfile(dataset) or dataset.endswith(".json")):
        above = os.path.dirname(os.path.dirname(os.path.abspath(dataset)))
        return dataset, os.path.join(above, "images")
    check_names([dataset], "the command line")
    known = MetadataCatalog.get(dataset)
    if not known.get("json_file") or not known.get("image_root"):
        raise UserError(f"data set {dataset} has no annotation file: this reads COCO's format")
    if not os.path.isfile(known.json_file):
        # The built-in ones write theirs on first use.
        with contextlib.suppress(OSError, AssertionError):
            DatasetCatalog.get(dataset)
    return known.json_file, known.image_root


def read_objects(path: str, image_folder: str) -> AnnotatedObjects:
    """Read the objects of an annotation file; opens no image.

    Crowd regions are no objects, as in training. An annotation without a sound box, without an
    image or a category is left out and counted.

    Args:
        path: the annotation file.
        image_folder: the folder that the file names of its images begin in.

    Returns:
        the objects, one at least.

    Raises:
        UserError: where the file is not there, is not in COCO's format or has no objects.
    """
    if not os.path.isfile(path):
        raise UserError(f"annotation file {path} does not exist: correct its path")
    content, sentence = read_annotations(path)
    if sentence is not None:
        raise UserError(sentence)
    images = [i for i in _entries(content, "images", path) if file_name(i) and image_size(i)]
    if not images:
        raise UserError(f"{path} has no images with a file_name, a width and a height: {_HINT}")
    image_index = {_key(image): i for i, image in enumerate(images)}
    categories = _entries(content, "categories", path)
    class_index = {_key(category): i for i, category in enumerate(categories)}
    kept, left_out = [], collections.Counter()
    for entry in _entries(content, "annotations", path):
        where = image_index.get(_key(entry, "image_id"))
        kind = class_index.get(_key(entry, "category_id"))
        box = None if where is None else _box(entry.get("bbox"), *image_size(images[where]))
        if entry.get("iscrowd"):
            left_out["crowd regions"] += 1
        elif where is None or kind is None:
            left_out["of no known image or category"] += 1
        elif box is None:
            left_out["without a box of some area on the image"] += 1
        else:
            kept.append((where, kind, box))
    if not kept:
        raise UserError(f"{path} has no annotations with a box: {_HINT}")
    where, kind, boxes = zip(*kept, strict=True)
    return AnnotatedObjects(
        path,
        image_folder,
        [image["file_name"] for image in images],
        np.array([image_size(image)[::-1] for image in images], dtype=np.int64),
        np.array(boxes),
        np.array(where),
        np.array(kind),
        [str(category.get("name", _key(category))) for category in categories],
        dict(left_out),
    )


_HINT = "add some; tools/check_dataset.py lists what is wrong with a file"


def _entries(content: Any, key: str, path: str) -> list[dict[str, Any]]:
    found = content.get(key, []) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{path} has no list named {key}, as COCO's format has: {_HINT}")
    return [entry for entry in found if isinstance(entry, dict)]


def _key(entry: dict[str, Any], name: str = "id") -> Any:
    """An id of whatever kind; one that no dictionary takes is nobody's."""
    value = entry.get(name)
    return value if isinstance(value, (int, str)) else None


def _box(box: Any, width: int, height: int) -> tuple[float, float, float, float] | None:
    """A bbox as x0 y0 x1 y1, clipped; None where nothing is left."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return None
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    left, right = (min(max(float(x), 0.0), float(width)) for x in (left, right))
    top, bottom = (min(max(float(y), 0.0), float(height)) for y in (top, bottom))
    return (left, top, right, bottom) if right > left and bottom > top else None
