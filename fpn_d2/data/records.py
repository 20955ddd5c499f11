"""Check the images of data sets in Detectron2's format, whatever their source.

The loaders call these checks before a run, and log what a comparison of training and test sets
shows. What :mod:`fpn_d2.data.validation` says of a file in COCO's format is not repeated.

Throughout, ``names`` are the names of data sets, and ``records`` their images in Detectron2's
format.
"""

import filecmp
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..utils.errors import UserError
from .annotation_file import is_number, mask_fault, size_faults
from .images import look_at
from .validation import ADD_MASKS, file_of, is_coco, is_semantic, judged_file

logger = logging.getLogger(__name__)

_HEADERS = 200  # so many images are looked at before a run
_MOST_COPIES = 100  # beyond so many files of one name, or copies found, contents are not compared

Records = Sequence[dict[str, Any]]


def header_faults(records: Records, seed: int) -> tuple[list[tuple[str, str]], int]:
    """Read the headers of some images, and log what is remarkable about them.

    Args:
        seed: decides which images.

    Returns:
        the ``file_name`` and the fault (:func:`fpn_d2.data.images.look_at`) of each image that
        cannot be used; and how many images were drawn.
    """
    named = [record for record in records if "file_name" in record]
    drawn = random.Random(seed).sample(named, min(_HEADERS, len(named)))
    faults: list[tuple[str, str]] = []
    remarks: dict[str, list[str]] = {}
    for record in drawn:
        file = record["file_name"]
        fault, remark = look_at(file, record.get("width"), record.get("height"), header=True)
        if fault is not None:
            faults.append((file, fault))
        elif remark is not None:
            remarks.setdefault(remark, []).append(file)
    for remark, files in remarks.items():
        logger.warning("image %s %s (%d of %d images)", files[0], remark, len(files), len(drawn))
    return faults, len(drawn)


def read_records(names: Sequence[str]) -> Records:
    """Call the functions by which data sets are registered; return the images of all.

    Raises:
        UserError: if one of them returns no list, or an empty one.
    """
    records: list[dict[str, Any]] = []
    for name in names:
        found = DatasetCatalog.get(name)
        if not isinstance(found, Sequence) or not found:
            what = "an empty list" if isinstance(found, Sequence) else f"a {type(found).__name__}"
            raise UserError(
                f"data set {name}: the function it is registered by returns {what}; let it return "
                "a list with a dict of Detectron2's format for each image"
            )
        records += found
    return records


def check_records(
    names: Sequence[str],
    records: Records,
    masks: bool,
    classes: int | None = None,
    evaluation: bool = False,
) -> None:
    """Check the ids, sizes, boxes, classes and masks of images, unless all come from annotation
    files in COCO's format.

    Args:
        masks: whether every object must have a sound mask.
        classes: the number of the model's classes; None for a model without any.
        evaluation: whether they are for evaluation, which tells images apart by their ids.

    Raises:
        UserError: naming the image.
    """
    if all(map(judged_file, names)):
        return
    ids: set[Any] = set()
    # Detectron2 trains on objects of all images or of none. Before an evaluation it counts those of
    # all, if the first image has a list and the classes have names.
    has_names = names and MetadataCatalog.get(names[0]).get("thing_classes")
    asked = records if not evaluation else records[:1] if has_names else ()
    annotated = any("annotations" in r for r in asked if isinstance(r, Mapping))
    for_coco = [name for name in names if evaluation and is_coco(name)]
    without_file = [name for name in for_coco if file_of(name) is None]  # one is made of records
    for record in records:
        if not isinstance(record, Mapping):
            raise UserError(
                f"data set {', '.join(names)}: it has {record!r} for an image; give a dict of "
                "Detectron2's format for each"
            )
        faults = list(_record_faults(record, masks, classes))
        if evaluation and not all(map(is_semantic, names)):
            number = record.get("image_id")
            if number is None or number in ids:
                faults.append(f"has the image_id {number}: give each image its own")
            if for_coco and isinstance(number, np.integer):  # JSON has no such numbers
                faults.append(f"has the image_id {number!r}: give a number of Python's, int(...)")
            ids.add(number)
        if annotated and "annotations" not in record:
            faults.append("has no annotations, and others do: give [] where there is no object")
        if without_file and not {"width", "height"} <= record.keys():
            faults.append("has no width or no height: give both, in pixels")
        if faults:
            image = record.get("file_name")
            raise UserError(f"data set {', '.join(names)}, image {image}: it {faults[0]}")
    for name in without_file:
        if records and not MetadataCatalog.get(name).get("thing_classes"):
            raise UserError(
                f"data set {name} is registered without the names of its classes: add "
                f"MetadataCatalog.get({name!r}).set(thing_classes=[...])"
            )


def _record_faults(record: Mapping[str, Any], masks: bool, classes: int | None) -> Iterator[str]:
    if not isinstance(record.get("file_name"), str | os.PathLike) and "image" not in record:
        yield "has no file_name: give the path of its image"
    sides = {key: record.get(key, 1) for key in ("width", "height")}  # they need not be there
    sizes = {key: int(n) if isinstance(n, np.integer) else n for key, n in sides.items()}
    yield from (text for _, _, text in size_faults(sizes))
    annotations = record.get("annotations", ())
    are_objects = isinstance(annotations, Sequence)
    if not are_objects or not all(isinstance(annotation, Mapping) for annotation in annotations):
        yield "has annotations that are no list of dicts: give a dict for each object, [] for none"
        return
    for number, annotation in enumerate(annotations, start=1):
        which = f"has an annotation, number {number},"
        box = annotation.get("bbox")
        box = box.tolist() if isinstance(box, np.ndarray) else box
        if isinstance(box, list | tuple):  # maybe of NumPy's numbers, as in Detectron2's tutorial
            box = [side.item() if isinstance(side, np.number) else side for side in box]
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            yield f"{which} with bbox {box}: give four finite numbers"
        mode = annotation.get("bbox_mode")
        if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            yield f"{which} with bbox_mode {mode}: give BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"
        number = annotation.get("category_id")
        # The number of classes itself is Detectron2's background.
        if not isinstance(number, Integral) or not 0 <= number < (classes or number + 1):
            most = f" to {classes - 1}" if classes else " on"
            yield f"{which} of category_id {number!r}: give a whole number from 0{most}"
        if not masks or annotation.get("iscrowd", 0):
            continue
        segmentation = annotation.get("segmentation")
        if not isinstance(segmentation, np.ndarray) and not segmentation:
            yield f"{which} that has no segmentation: {ADD_MASKS}"
        elif {"width", "height"} <= record.keys() or not isinstance(segmentation, dict):
            # Only an RLE is compared with its image.
            fault = mask_fault(segmentation, record.get("height", 0), record.get("width", 0))
            if fault is not None:
                yield f"{which} with a broken mask (its segmentation {fault}): correct it"


def check_polygons(names: Sequence[str], records: Records) -> None:
    """Refuse an RLE where ``INPUT.MASK_FORMAT`` is polygon.

    Raises:
        UserError: naming the image.
    """
    for record in records:
        for annotation in record.get("annotations", ()):
            if isinstance(annotation.get("segmentation"), dict) and not annotation.get("iscrowd"):
                raise UserError(
                    f"data set {', '.join(names)}, image {record['file_name']}: it has an RLE, and "
                    "INPUT.MASK_FORMAT is polygon: set it to bitmask, which takes both"
                )


def check_keypoint_names(names: Sequence[str]) -> None:
    """Refuse training sets that do not name their keypoints: Detectron2's mappers, also those of
    test sets, need the names for flipped images."""
    for name in names:
        metadata = MetadataCatalog.get(name)
        if not (hasattr(metadata, "keypoint_names") and hasattr(metadata, "keypoint_flip_map")):
            raise UserError(
                f"data set {name} does not name its keypoints, and MODEL.KEYPOINT_ON needs that: "
                f"add MetadataCatalog.get({name!r}).set(keypoint_names=[...], "
                "keypoint_flip_map=[(left, right), ...])"
            )


def check_keypoints(names: Sequence[str], records: Records, points: int, *, training: bool) -> None:
    """Refuse objects that have another number of keypoints than the model.

    Args:
        points: the number of the model's keypoints.
        training: whether to refuse also objects without keypoints in images where others have some.

    Raises:
        UserError: naming the data set and the image.
    """
    for record in records:
        objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        given = [a["keypoints"] if a.get("keypoints") is not None else () for a in objects]
        counts = [np.size(numbers) for numbers in given]
        wrong = [count for count in counts if count != 3 * points and (count or training)]
        if wrong and any(counts):  # MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE judges others
            raise UserError(
                f"data set {', '.join(names)}, image {record.get('file_name')}: it has an "
                f"object with {wrong[0]} numbers as keypoints, and {points} points "
                f"(MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS) have {3 * points}, zeros where they are "
                "not labelled: correct one"
            )


def check_ground_truth(name: str, records: Records) -> None:
    """Refuse images that are not in the file that COCO's evaluation reads, and warn if there are no
    objects to find.

    The two may differ, as a program may register a function and a ``json_file`` of its own.

    Raises:
        UserError: naming the image or the ids of the classes.
    """
    if is_semantic(name):
        return
    objects = (annotation for record in records for annotation in record.get("annotations", ()))
    if all(annotation.get("iscrowd", 0) for annotation in objects):
        logger.warning(
            "data set %s has no objects to find but crowds, so its AP is NaN: annotate some, or "
            "take it out of DATASETS.TEST",
            name,
        )
    file = judged_file(name)
    if file is None or not file.images:
        return
    remedy = f"correct them, or take json_file out of the metadata of data set {name}"
    for record in records:
        if record.get("image_id") not in file.images:
            raise UserError(
                f"{file.path}: it has no image of id {record.get('image_id')!r}, as data set "
                f"{name} says of {record.get('file_name')}: {remedy}"
            )
    # Without this table the evaluation takes class indices for category ids.
    table = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    if not table and file.class_ids != list(range(len(file.class_ids))):
        raise UserError(
            f"{file.path}: the ids of its categories are {file.class_ids[:3]}, ..., and data set "
            f"{name} counts classes from 0: set its metadata's thing_dataset_id_to_contiguous_id, "
            "or take json_file out of it"
        )


def tell_splits(train: Records, tests: Mapping[str, Records]) -> None:
    """Log what makes a test AP misleading: images that are trained on too, classes that are not.

    Args:
        train: the training images.
        tests: the images of each data set of ``DATASETS.TEST``, by its name.
    """
    by_name: dict[str, list[str]] = {}
    for path in _paths(train):
        by_name.setdefault(os.path.basename(path), []).append(path)
    known = _classes(train)
    for name, records in tests.items():
        shared = _shared(_paths(records), by_name)
        if shared:
            logger.warning(
                "data set %s: at least %d of its %d images are trained on too (first %s), so its "
                "AP is not that of new images: take them out of one of the sets",
                *(name, len(shared), len(records), shared[0]),
            )
        unseen = sorted(_classes(records) - known)
        if unseen:
            names = MetadataCatalog.get(name).get("thing_classes", ())
            titles = [str(names[i]) if i < len(names) else f"class {i}" for i in unseen]
            logger.warning(
                "data set %s: no training image has an object of %s, so the AP of %s is 0 and "
                "lowers the mean: annotate some, or take out the class",
                *(name, ", ".join(titles), "this class" if len(titles) == 1 else "each of them"),
            )


def _paths(records: Records) -> list[str]:
    return [os.fspath(record["file_name"]) for record in records if "file_name" in record]


def _classes(records: Records) -> set[int]:
    """The classes of all objects except crowds."""
    return {
        annotation["category_id"]
        for record in records
        for annotation in record.get("annotations", ())
        if "category_id" in annotation and not annotation.get("iscrowd", 0)
    }


def _shared(paths: Sequence[str], by_name: Mapping[str, Sequence[str]]) -> list[str]:
    """The files that are, or are copies of, files of another set."""
    shared: list[str] = []
    for path in paths:
        others = by_name.get(os.path.basename(path), ())
        # Frames of many videos share their names, so comparing all would take forever.
        few = len(others) <= _MOST_COPIES > len(shared)
        copies_count = few and os.path.isfile(path)
        candidates = filter(os.path.isfile, others if copies_count else ())
        if path in others or any(filecmp.cmp(path, one, shallow=False) for one in candidates):
            shared.append(path)
    return shared
