"""What is wrong with the content of an annotation file in COCO's format, whatever it holds.

An *error* stops a run or makes its results wrong; a *warning* is of what Detectron2 leaves out or
clips, and of what only some runs need.
"""

import dataclasses
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from .mask_faults import is_number, mask_fault

__all__ = ["ERROR", "WARNING", "Finding", "annotation_findings", "file_name", "image_size"]

ERROR, WARNING = "error", "warning"

# Boxes are often rounded outwards.
_PIXELS_OUTSIDE = 1.0
_LARGEST = 2**63 - 1  # what COCO's evaluation and numpy take

Fault = tuple[str, str]  # severity and sentence


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of a data set.

    Args:
        severity: ``"error"`` or ``"warning"``.
        image: the image's ``file_name``; None where the fault is no single image's.
        annotation: the annotation's id; None where the fault is no annotation's, or it has no id.
        sentence: what is wrong and what to do.
    """

    severity: str
    image: str | None
    annotation: int | None
    sentence: str


def annotation_findings(content: Any) -> Iterator[Finding]:
    """Find all faults that show without the image files.

    Args:
        content: a parsed JSON file, of any kind.

    Yields:
        the faults, in the order of the file.
    """
    if not isinstance(content, dict):
        text = "the file's top level is no object: give it the lists images, annotations, ..."
        yield Finding(ERROR, None, None, text)
        return
    lists = {}
    for key in ("images", "categories", "annotations"):
        # Files of COCO's test images have no annotations.
        found = content.get(key, [] if key == "annotations" else None)
        lists[key] = found if isinstance(found, list) else []
        if not isinstance(found, list):
            yield Finding(ERROR, None, None, f"there is no list named {key}: add it")
        elif not found and key != "annotations":
            yield Finding(ERROR, None, None, f"the list named {key} is empty: fill it")
    yield from _of_categories(lists["categories"])
    yield from _of_images(lists["images"])
    yield from _of_annotations(lists)


def image_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an entry of ``images`` in pixels, or None where they are none."""
    size = image.get("width"), image.get("height")
    return size if all(_is_whole(side) and side > 0 for side in size) else None


def file_name(image: dict[str, Any] | None) -> str | None:
    """The file name of an entry of ``images``, or None where it has none."""
    name = image.get("file_name") if image is not None else None
    return name if isinstance(name, str) and name and "\0" not in name else None


def _of_categories(categories: list[Any]) -> Iterator[Finding]:
    ids: set[int | str] = set()
    names: set[str] = set()
    for where, category in _objects("categories", categories):
        faults = list(_entry_faults(category, ids))
        name = category.get("name") if category is not None else ""
        if not isinstance(name, str):
            faults.append((ERROR, f"has the name {_short(name)}: give it one, a text"))
        elif name in names:
            faults.append((WARNING, f"repeats the name {_short(name)}: give each class its own"))
        if name and isinstance(name, str):
            names.add(name)
        for severity, text in faults:
            yield Finding(severity, None, None, f"{where} {text}")
    yield from _mixed_ids("categories", ids)


def _of_images(images: list[Any]) -> Iterator[Finding]:
    ids: set[int | str] = set()
    names: set[str] = set()
    for where, image in _objects("images", images):
        faults, name = list(_entry_faults(image, ids)), file_name(image)
        if image is not None:
            if name is None:
                text = _short(image.get("file_name"))
                faults.append((ERROR, f"has the file_name {text}: give its path, a text"))
            elif name in names:
                faults.append((WARNING, "repeats the file_name of another: take one of them out"))
            for key in ("width", "height"):
                side = image.get(key)
                if not (_is_whole(side) and side > 0):
                    text = f"has the {key} {_short(side)}: give it in pixels, a whole number"
                    faults.append((ERROR, text))
        if name is not None:
            names.add(name)
        for severity, text in faults:
            yield Finding(severity, name, None, f"{where} {text}")
    yield from _mixed_ids("images", ids)


def _of_annotations(lists: dict[str, list[Any]]) -> Iterator[Finding]:
    images, categories = _by_id(lists["images"]), _by_id(lists["categories"])
    annotations = lists["annotations"]
    objects = [annotation for annotation in annotations if isinstance(annotation, dict)]
    masks = any(annotation.get("segmentation") for annotation in objects)
    ids: set[int | str] = set()
    bar = tqdm(annotations, desc="annotations", disable=None)
    for where, annotation in _objects("annotations", bar):
        faults = list(_entry_faults(annotation, ids, of_object=True))
        name = number = None
        if annotation is not None:
            image_id, number = annotation.get("image_id"), annotation.get("id")
            image = images.get(image_id) if _is_id(image_id) else None
            name, number = file_name(image), number if _is_whole(number) else None
            faults += _object_faults(annotation, image, categories, masks)
        which = where if number is None else f"annotation {number}"
        for severity, text in faults:
            yield Finding(severity, name, number, f"{which} {text}")
    lacking = {
        "area": sum(not is_number(annotation.get("area")) for annotation in objects),
        "iscrowd": sum("iscrowd" not in annotation for annotation in objects),
    }
    for key, count in lacking.items():
        if count:
            text = f"{count} annotations have no {key}, without which COCO's evaluation stops"
            yield Finding(WARNING, None, None, f"{text}: add it, unless you only train on the file")


def _object_faults(
    annotation: dict[str, Any], image: dict[str, Any] | None, categories: dict, masks: bool
) -> Iterator[Fault]:
    """The faults of one annotation but for its id; ``masks``: whether any in the file has one."""
    size = image_size(image) if image is not None else None
    if image is None:
        which = _short(annotation.get("image_id"))
        yield ERROR, f"has the image_id {which}, which is not in images: correct it or add it there"
    category = annotation.get("category_id")
    if not (_is_id(category) and category in categories):
        text = f"has the category_id {_short(category)}, which is not in categories"
        yield ERROR, f"{text}: correct it or add it there"
    if annotation.get("ignore", 0) != 0:
        yield ERROR, "has 'ignore', which Detectron2 does not take: use 'iscrowd'"
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield ERROR, f"has the iscrowd {_short(annotation['iscrowd'])}: give 0 or 1"
    yield from _box_faults(annotation.get("bbox"), size)
    segmentation = annotation.get("segmentation")
    if segmentation:
        yield from _mask_faults(segmentation, size)
    elif masks and annotation.get("iscrowd", 0) != 1:
        yield WARNING, "has no segmentation, as others have: a model of masks needs one"
    points = annotation.get("keypoints")
    if points and not (isinstance(points, list) and all(map(is_number, points))):
        yield ERROR, "has keypoints that are no list of finite numbers: correct them"


def _box_faults(box: Any, size: tuple[int, int] | None) -> Iterator[Fault]:
    text = f"has the bbox {_short(box)}"
    numbers = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
    if not numbers or max(map(abs, box)) > _LARGEST:
        yield ERROR, f"{text}: give four finite numbers, left, top, width and height in pixels"
        return
    left, top, width, height = map(float, box)
    if width < 0 or height < 0:
        yield ERROR, f"{text} of a negative side: give left, top, width and height in pixels"
        return
    if width == 0 or height == 0:
        yield WARNING, f"{text} without area, which training leaves out: correct it"
    if size is None:
        return
    right, bottom = left + width, top + height
    if left >= size[0] or top >= size[1] or (width and right <= 0) or (height and bottom <= 0):
        yield ERROR, f"{text} outside the image of {size[0]} x {size[1]} pixels: correct it"
        return
    beyond = max(-left, -top, right - size[0], bottom - size[1])
    if beyond > _PIXELS_OUTSIDE:
        text = f"{text}, {beyond:g} pixels beyond the image of {size[0]} x {size[1]}"
        yield WARNING, f"{text}: training clips it, evaluation does not"


def _mask_faults(segmentation: Any, size: tuple[int, int] | None) -> Iterator[Fault]:
    if size is None and isinstance(segmentation, dict):
        return  # an RLE is compared with its image
    width, height = size or (0, 0)
    fault = mask_fault(segmentation, height, width)
    if fault:
        yield ERROR, f"has a broken mask (its segmentation {fault}): correct it"
    elif isinstance(segmentation, list):
        lines = sum(len(polygon) < 6 for polygon in segmentation)
        if lines:
            lost = "the object" if lines == len(segmentation) else "them"
            text = f"has {lines} polygon(s) of fewer than three points"
            yield WARNING, f"{text}: Detectron2 leaves {lost} out"


def _objects(key: str, entries: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """``(which, entry)``; the entry is None where it is no object."""
    for number, entry in enumerate(entries):
        yield f"entry {number} of {key}", entry if isinstance(entry, dict) else None


def _entry_faults(
    entry: dict[str, Any] | None, ids: set[int | str], of_object: bool = False
) -> Iterator[Fault]:
    """The faults of an entry and its id, which is added to ``ids``."""
    if entry is None:
        yield ERROR, "is no object: give it the keys of COCO's format"
        return
    number = entry.get("id")
    if of_object and not (_is_whole(number) and number > 0):
        # COCO's evaluation counts an object of id 0 as missed although it was found.
        yield ERROR, f"has the id {_short(number)}: give a whole number from 1 on"
    elif isinstance(number, str):
        yield WARNING, f"has the id {_short(number)}: COCO's format has whole numbers"
    elif not _is_whole(number):
        yield ERROR, f"has the id {_short(number)}: give a whole number"
    if _is_id(number):
        if number in ids:
            yield ERROR, f"repeats the id {_short(number)} of another: number them anew"
        ids.add(number)


def _mixed_ids(key: str, ids: set[int | str]) -> Iterator[Finding]:
    if len({type(number) for number in ids}) > 1:
        text = f"the ids of {key} are partly numbers and partly texts: give all of them numbers"
        yield Finding(ERROR, None, None, text)


def _by_id(entries: list[Any]) -> dict[int | str, dict[str, Any]]:
    objects = (entry for entry in entries if isinstance(entry, dict))
    return {entry["id"]: entry for entry in objects if _is_id(entry.get("id"))}


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or _is_whole(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _short(value: Any) -> str:
    """A value in a few words, of whatever length and depth it is."""
    return reprlib.repr(value)
