"""The objects of an annotation file in COCO's format as arrays, whatever else the file holds.

Shape shorthand: N images, R objects of all images together.
"""

import contextlib
import dataclasses
import os

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import check_names
from ..data.annotation_file import AnnotationFile, read_annotations
from ..utils.errors import UserError

__all__ = ["AnnotatedObjects", "dataset_files", "read_objects"]

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
    file = AnnotationFile(content if isinstance(content, dict) else {}, path)
    if file.missing:
        raise UserError(
            f"{path} has no list named {file.missing[0]}, as COCO's format has: {_REMEDY}"
        )
    usable = np.array([name is not None for name in file.names], dtype=bool)
    usable &= ~np.isnan(file.sizes).any(axis=1)
    if not usable.any():
        raise UserError(f"{path} has no images with a file_name, a width and a height: {_REMEDY}")
    # The index of each image among the usable ones; the last one, -1, is that of unknown images.
    index = np.append(np.where(usable, usable.cumsum() - 1, -1), -1)
    images, classes, sizes = index[file.of_image], file.of_category, file.size_of_image
    low, high = file.boxes[:, :2], file.boxes[:, :2] + file.boxes[:, 2:]
    boxes = np.concatenate([low.clip(0, sizes), high.clip(0, sizes)], axis=1)
    is_crowd = np.array([bool(value) for value in file.annotations.column("iscrowd")], dtype=bool)
    is_unknown = ~is_crowd & ((images < 0) | (classes < 0))
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    kept = ~is_crowd & ~is_unknown & has_area
    if not kept.any():
        raise UserError(f"{path} has no annotations with a box: {_REMEDY}")
    left_out = {
        "crowd regions": is_crowd,
        "of no known image or category": is_unknown,
        "without a box of some area on the image": ~(is_crowd | is_unknown | has_area),
    }
    categories = zip(file.categories.column("name"), file.categories.ids, strict=True)
    return AnnotatedObjects(
        annotation_file=path,
        image_folder=image_folder,
        file_names=[name for name, use in zip(file.names, usable, strict=True) if use],
        image_sizes=file.sizes[usable][:, ::-1].astype(np.int64),
        boxes=boxes[kept],
        images=images[kept],
        classes=classes[kept],
        class_names=[str(number if name is None else name) for name, number in categories],
        left_out={reason: int(which.sum()) for reason, which in left_out.items() if which.any()},
    )
