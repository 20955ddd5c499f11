"""The objects of an annotation file in COCO's format as arrays, whatever else the file holds.

Shape shorthand: N images, R objects of all images together.
"""

import collections
import contextlib
import os
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import check_names
from ..data.annotation_file import as_id, file_name, image_size, is_number
from ..data.coco_json import read_annotations
from ..data.datasets.folders import folder_files, make_ready
from ..utils.errors import UserError

_REMEDY = "add some; tools/check_dataset.py lists what is wrong with a file"


class AnnotatedObjects:
    """The objects that a detector has to find in a data set.

    Attributes:
        image_folder: the folder that the images' file names are relative to.
        file_names: N file names.
        image_sizes: (N, 2) int64, height and width of each image in pixels.
        boxes: (R, 4) float64, x0 y0 x1 y1 in pixels of the image, clipped to it; R is not 0.
        images: (R,) int64, the index of each object's image.
        classes: (R,) int64, the index of each object's class in ``class_names``.
        class_names: the names of the classes, in the order of the file.
        left_out: the number of annotations that are not among the objects, by reason.
    """

    def __init__(self, path: str, image_folder: str):
        """Read an annotation file; no image is opened.

        Crowd regions are no objects, as in training. An annotation without a sound box, an image or
        a category is left out and counted.

        Raises:
            UserError: if the file does not exist, is not in COCO's format or has no objects.
        """
        if not os.path.isfile(path):
            raise UserError(f"annotation file {path} does not exist: correct its path")
        content, sentence = read_annotations(path)
        if sentence is not None:
            raise UserError(sentence)
        lists = {}
        for key in ("images", "categories", "annotations"):
            found = content.get(key, []) if isinstance(content, dict) else None
            if not isinstance(found, list):
                raise UserError(f"{path} has no list named {key}, as COCO's format has: {_REMEDY}")
            lists[key] = [entry for entry in found if isinstance(entry, dict)]
        images = [entry for entry in lists["images"] if file_name(entry) and image_size(entry)]
        if not images:
            text = "has no images with a file_name, a width and a height"
            raise UserError(f"{path} {text}: {_REMEDY}")
        image_index = {as_id(image.get("id")): i for i, image in enumerate(images)}
        class_index = {as_id(c.get("id")): i for i, c in enumerate(lists["categories"])}
        kept, self.left_out = [], collections.Counter()
        for entry in lists["annotations"]:
            image = image_index.get(as_id(entry.get("image_id")))
            category = class_index.get(as_id(entry.get("category_id")))
            box = None if image is None else _box(entry.get("bbox"), *image_size(images[image]))
            if entry.get("iscrowd"):
                self.left_out["crowd regions"] += 1
            elif image is None or category is None:
                self.left_out["of no known image or category"] += 1
            elif box is None:
                self.left_out["without a box of some area on the image"] += 1
            else:
                kept.append((image, category, box))
        if not kept:
            raise UserError(f"{path} has no annotations with a box: {_REMEDY}")
        self.images, self.classes, self.boxes = map(np.array, zip(*kept, strict=True))
        self.image_folder = image_folder
        self.file_names = [image["file_name"] for image in images]
        self.image_sizes = np.array([image_size(i)[::-1] for i in images], dtype=np.int64)
        self.class_names = [str(c.get("name", as_id(c.get("id")))) for c in lists["categories"]]

    def __len__(self) -> int:
        return len(self.boxes)


def _box(box: Any, width: int, height: int) -> tuple[float, float, float, float] | None:
    """Return a ``bbox`` as x0 y0 x1 y1, clipped to the image; None if nothing is left of it."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return None
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    left, right = (min(max(float(x), 0.0), float(width)) for x in (left, right))
    top, bottom = (min(max(float(y), 0.0), float(height)) for y in (top, bottom))
    return (left, top, right, bottom) if right > left and bottom > top else None


def dataset_splits(dataset: str) -> list[str]:
    """Return the splits of a folder in a layout of ``datasets/README.md``; none for anything else.

    Raises:
        UserError: if the folder is in no layout, or in two.
    """
    is_folder = dataset not in DatasetCatalog and os.path.isdir(dataset)
    return list(folder_files(os.path.normpath(dataset))) if is_folder else []


def dataset_files(dataset: str, split: str = "train") -> tuple[str, str]:
    """Find the annotation file of a data set and the folder of its images.

    Args:
        dataset: a registered name; an annotation file, whose images are in ``images/`` beside its
            folder; or a folder, see :func:`dataset_splits`.
        split: the split of a folder; it is converted if its layout is not COCO's.

    Returns:
        the two paths, which need not exist.

    Raises:
        UserError: if the name is not registered, the folder has no such split or cannot be
            converted, or the data set is not in COCO's format.
    """
    splits = dataset_splits(dataset)
    if splits:
        if split not in splits:
            known = " or ".join(splits)
            raise UserError(f"{dataset} has no split {split}: choose {known} with --split")
        return folder_files(os.path.normpath(dataset), convert=split)[split]
    if dataset not in DatasetCatalog and (os.path.isfile(dataset) or dataset.endswith(".json")):
        above = os.path.dirname(os.path.dirname(os.path.abspath(dataset)))
        return dataset, os.path.join(above, "images")
    check_names([dataset], "the command line")
    make_ready(dataset)
    known = MetadataCatalog.get(dataset)
    if not known.get("json_file") or known.get("image_root") is None:  # "" is a folder
        raise UserError(f"data set {dataset} has no annotation file: this reads COCO's format")
    if known.get("evaluator_type") == "lvis":  # whose images have no file_name
        raise UserError(f"data set {dataset} has LVIS's annotations: this reads COCO's format")
    if not os.path.isfile(known.json_file):
        with contextlib.suppress(OSError, AssertionError):
            DatasetCatalog.get(dataset)  # the built-in data sets write their files on first use
    return known.json_file, known.image_root or "."
