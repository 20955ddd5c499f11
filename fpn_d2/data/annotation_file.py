"""Rules for annotation files in COCO's format; the JSON may hold anything.

Every rule is a few lines in one of the generators below. It says what is wrong, how to mend it, and
which runs it *stops*.
"""

import dataclasses
import itertools
import math
import re
import sys
from collections.abc import Iterator
from numbers import Integral
from reprlib import repr as _short  # shortens a value of any length and depth
from typing import Any

import numpy as np

from .datasets.converted_folders import FINDINGS

ERROR, WARNING = "error", "warning"
TRAINING, EVALUATION, MASKS = "training", "evaluation", "masks"
MASK_EVALUATION = "evaluation of masks"
ANY_RUN = (TRAINING, EVALUATION)

Fault = tuple[str, tuple[str, ...], str]  # severity, the runs it stops, the end of a sentence
Entries = dict[int, dict[str, Any]]  # entries by their index in a list of the file

_LARGEST = 2**63 - 1  # the largest number that NumPy and COCO's evaluation take
_NUMBERS = frozenset((int, float))
_LONGEST_SIDE = 2**31 - 1  # of an image, in pixels
# pycocotools stores every point along a polygon's edges, so distant corners fill the memory.
_FARTHEST = 100_000
# Boxes are often rounded outwards.
_PIXELS_OUTSIDE = 1.0
# The largest share of an image, with rounding.
_LARGEST_SHARE = 1.001
# If at least this many boxes all make sense as corners, that is no coincidence.
_ENOUGH_BOXES = 10
_MOST_CROWDS = 0.5  # COCO has one crowd in 80 objects
_MASKS_LOOKED_AT = 1000
# But for rounding, a polygon's extent covers its box; the extent in an image of half the size
# covers a quarter of the box at most.
_LEAST_COVERED = 0.25
# COCO's own files that Detectron2 knows to repeat ids.
_MINIVAL = re.compile(r"instances_(valminus)?minival2014\.json$")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of a data set.

    Args:
        severity: ``"error"`` stops a run or makes its results wrong; ``"warning"`` concerns what
            is left out or clipped, or what only some runs need.
        image: the image's ``file_name``; None if the fault does not concern one image.
        annotation: the annotation's id; None if the fault does not concern one annotation, or its
            id is no whole number.
        sentence: what is wrong, and how to mend it.
        stops: the runs that it prevents: ``"training"``, ``"evaluation"``, ``"masks"`` (training
            or evaluation of a model with masks), ``"evaluation of masks"``.
    """

    severity: str
    image: str | None
    annotation: int | None
    sentence: str
    stops: tuple[str, ...] = ()


def annotation_findings(content: Any, path: str = "") -> Iterator[Finding]:
    """Find all faults that show without the image files: those of the lists, the categories, the
    images and the annotations, each in the file's order.

    Args:
        content: the parsed JSON, whatever it holds.
        path: the file's path, to recognise COCO's own files that may repeat ids.
    """
    if not isinstance(content, dict):
        text = "the file's top level is no object: give it the lists images, annotations, ..."
        yield _of_file(text)
        return
    yield from conversion_findings(content)
    lists: dict[str, Entries] = {}
    for key in ("images", "categories", "annotations"):
        # Files of COCO's test images have no annotations.
        found = content.get(key, [] if key == "annotations" else None)
        if not isinstance(found, list):
            yield _of_file(f"there is no list named {key}, so this is not in COCO format: add it")
            found = []
        elif not found and key != "annotations":
            yield _of_file(f"the list named {key} is empty: fill it")
        lists[key] = {}
        for i, entry in enumerate(found):
            if isinstance(entry, dict):
                lists[key][i] = entry
            else:
                text = f"entry {i} of {key} is no object: give it the keys of COCO's format"
                yield _of_file(text)
    yield from _of_categories(lists["categories"])
    yield from _of_images(lists["images"])
    for key in ("categories", "images"):
        kinds = {type(number) for number in _by_id(lists[key])}
        if len(kinds) > 1:
            text = f"the ids of {key} are partly numbers and partly texts"
            yield _of_file(f"{text}: give all of them numbers")
        elif str in kinds:  # as Open Images' are; nothing here minds
            text = f"the ids of {key} are texts, where COCO's format has whole numbers"
            yield Finding(WARNING, None, None, text)
    yield from _of_annotations(lists, may_repeat=bool(_MINIVAL.search(path)))


def conversion_findings(content: dict[str, Any]) -> Iterator[Finding]:
    """Yield what was left out when a folder of another layout was converted into this file. An
    error concerns an image; an evaluation without it would not be one of the data set."""
    info = content.get("info")
    told = info.get(FINDINGS) if isinstance(info, dict) else None
    for entry in told if isinstance(told, list) else []:
        match entry:
            case ["error" | "warning" as severity, str(sentence)]:
                stops = (EVALUATION,) if severity == ERROR else ()
                yield Finding(severity, None, None, sentence, stops)


def _of_file(text: str) -> Finding:
    """Make a finding about the whole file, which stops every run."""
    return Finding(ERROR, None, None, text, ANY_RUN)


def image_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an entry of ``images`` in pixels; None if one is missing or invalid."""
    return (image["width"], image["height"]) if not list(size_faults(image)) else None


def file_name(image: dict[str, Any]) -> str | None:
    """The file name of an entry of ``images``, or None if it has no usable one."""
    name = image.get("file_name")
    return name if isinstance(name, str) and name and "\0" not in name else None


def is_number(value: Any) -> bool:
    """Whether a value of an annotation file is a finite number within the range of floats."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # False for NaN


def _of_categories(categories: Entries) -> Iterator[Finding]:
    ids: set[int | str] = set()
    names: set[str] = set()
    alike: set[str] = set()
    for place, category in categories.items():
        faults, name = list(_id_faults(category, ids)), category.get("name")
        if not isinstance(name, str):
            faults.append((ERROR, ANY_RUN, f"has the name {_short(name)}: give it one, a text"))
        elif name in names:
            faults.append((WARNING, (), f"repeats the name {_short(name)}: give each its own"))
        elif name:
            plain = " ".join(name.split()).casefold()
            if plain in alike:
                text = f"has the name {_short(name)}, another's but for case or blanks: if both "
                text += "are one class, give its annotations the other's id and take it out"
                faults.append((WARNING, (), text))
            names.add(name)
            alike.add(plain)
        for severity, stops, text in faults:
            yield Finding(severity, None, None, f"entry {place} of categories {text}", stops)


def _of_images(images: Entries) -> Iterator[Finding]:
    ids: set[int | str] = set()
    names: set[str] = set()
    for place, image in images.items():
        faults, name = list(_id_faults(image, ids)), file_name(image)
        if name is None:
            text = f"has the file_name {_short(image.get('file_name'))}: give its path, a text"
            faults.append((ERROR, ANY_RUN, text))
        elif name in names:
            text = "repeats the file_name of another: keep one entry for the image, and give all "
            faults.append((WARNING, (), text + "its annotations the image_id of that entry"))
        else:
            names.add(name)
        for severity, stops, text in [*faults, *size_faults(image)]:
            yield Finding(severity, name, None, f"entry {place} of images {text}", stops)


def size_faults(image: dict[str, Any]) -> Iterator[Fault]:
    """Yield the faults of an image's width and height."""
    for key in ("width", "height"):
        side = image.get(key)
        if not (_is_whole(side) and 0 < side <= _LONGEST_SIDE):
            text = f"has the {key} {_short(side)}: give it in pixels, a whole number"
            yield ERROR, ANY_RUN, text


def _of_annotations(lists: dict[str, Entries], may_repeat: bool) -> Iterator[Finding]:
    images, categories = _by_id(lists["images"]), _by_id(lists["categories"])
    sizes = {number: image_size(image) for number, image in images.items()}
    annotations = list(lists["annotations"].values())
    masks = any(map(has_mask, annotations))
    ids: set[int | str] = set()
    doubtful, are_boxes = 0, True
    for place, annotation in lists["annotations"].items():
        if _is_plain(annotation, sizes, categories, masks) and annotation["id"] not in ids:
            ids.add(annotation["id"])
            continue
        doubtful, are_boxes = doubtful + 1, are_boxes and _is_box(annotation.get("bbox"))
        faults = list(_id_faults(annotation, set() if may_repeat else ids, of_object=True))
        image_id, number = as_id(annotation.get("image_id")), as_id(annotation.get("id"))
        if image_id not in images:  # Detectron2 leaves it out
            text = f"has the image_id {_short(annotation.get('image_id'))}, which is not in images"
            faults.append((ERROR, (), f"{text}: correct it or add it there"))
        faults += _object_faults(annotation, sizes.get(image_id), categories, masks)
        for severity, stops, text in faults:
            shown = number if isinstance(number, int) else None
            which = f"entry {place} of annotations" if shown is None else f"annotation {shown}"
            name = file_name(images.get(image_id, {}))
            yield Finding(severity, name, shown, f"{which} {text}", stops)
    yield from _of_all(annotations, images)
    yield from _of_all_polygons(annotations)
    if annotations and are_boxes:
        yield from _of_all_boxes(annotations, sizes, 2 * doubtful > len(annotations))


def _of_all(annotations: list[dict[str, Any]], images: dict) -> Iterator[Finding]:
    """Find keys that annotations lack, and files in which most objects are crowds."""
    for key in ("area", "iscrowd"):
        lacking = [annotation for annotation in annotations if key not in annotation]
        if lacking:
            name = file_name(images.get(as_id(lacking[0].get("image_id")), {}))
            first = f"the first is annotation {_short(lacking[0].get('id'))} of image {name}"
            text = f"{len(lacking)} annotations have no {key} ({first}), without which COCO's "
            text += "evaluation stops: add it, unless you only train on the file"
            yield Finding(WARNING, None, None, text, (EVALUATION,))
    crowds = sum(annotation.get("iscrowd") == 1 for annotation in annotations)
    if crowds > _MOST_CROWDS * len(annotations):
        text = f"{crowds} of {len(annotations)} annotations have iscrowd 1, as some exporters give "
        text += "every RLE; training leaves them out, and evaluation does not ask for them: give "
        yield Finding(WARNING, None, None, text + "single objects iscrowd 0")


def _of_all_polygons(annotations: list[dict[str, Any]]) -> Iterator[Finding]:
    """Find polygons that do not lie on their objects' boxes, in a sample of the annotations."""
    beside, seen = [], 0
    for annotation in annotations[:: 1 + len(annotations) // _MASKS_LOOKED_AT]:
        polygons, box = annotation.get("segmentation"), annotation.get("bbox")
        if not (polygons and _is_box(box) and _are_plain_polygons(polygons)):
            continue
        seen += 1
        points = np.concatenate(polygons).reshape(-1, 2)
        corner, sides = np.array(box, dtype=float).reshape(2, 2)
        common = np.minimum(points.max(axis=0), corner + sides)
        common -= np.maximum(points.min(axis=0), corner)
        if common.clip(min=0).prod() < _LEAST_COVERED * sides.prod():
            beside.append(annotation)
    if seen >= _ENOUGH_BOXES and 2 * len(beside) > seen:
        first = f"the first is of annotation {_short(beside[0].get('id'))}"
        text = f"{len(beside)} of {seen} masks that were looked at do not lie on their bbox "
        text += f"({first}), like shares of the image or points of an image of another size: give "
        text += "x and y of polygons in pixels of the image"
        yield Finding(WARNING, None, None, text, (MASKS,))


def _of_all_boxes(
    annotations: list[dict[str, Any]], sizes: dict, doubtful: bool
) -> Iterator[Finding]:
    """Find faults that show only in all boxes and areas together. Each ``bbox`` must be four finite
    numbers; ``doubtful``: whether most annotations are not plain."""
    areas = (annotation.get("area") for annotation in annotations)
    boxes = itertools.chain.from_iterable(annotation["bbox"] for annotation in annotations)
    boxes = np.fromiter(boxes, float).reshape(-1, 4)
    tiny = all(is_number(area) and area <= _LARGEST_SHARE for area in areas)
    if tiny and boxes[:, 2:].prod(axis=1).mean() > 4:
        text = f"all {len(boxes)} areas are 1 or less, like shares of their images: give them in "
        text += "square pixels, since evaluation tells small from large by them"
        yield Finding(WARNING, None, None, text)
    if doubtful or boxes[0].max() <= _LARGEST_SHARE:
        unknown = math.nan, math.nan
        of_boxes = [sizes.get(as_id(a.get("image_id"))) or unknown for a in annotations]
        yield from _of_other_numbers(boxes, np.array(of_boxes, dtype=float))
    yield from _of_copies(annotations, boxes)


def _of_other_numbers(boxes: np.ndarray, sizes: np.ndarray) -> Iterator[Finding]:
    """Find out whether all (N, 4) boxes are shares of their images or corners. ``sizes`` is (N, 2),
    the images' widths and heights, NaN where unknown."""
    first, last = boxes[:, :2], boxes[:, 2:]
    corner = first + last
    if boxes.min() >= 0 and corner.max() <= _LARGEST_SHARE and not (sizes <= 2).any():
        text = f"all {len(boxes)} boxes lie between 0 and 1, like shares of their images: give "
        yield _of_file(text + "left, top, width and height in pixels")
    if len(boxes) < _ENOUGH_BOXES or np.isnan(sizes).any():
        return
    beyond = (np.maximum(-first, corner - sizes) > _PIXELS_OUTSIDE).any(axis=1)
    if beyond.mean() > 0.5 and (first < last).all() and (last <= sizes + 1).all():
        text = f"all {len(boxes)} boxes could be left, top, right and bottom, and as left, top, "
        text += "width and height most go beyond their images: give these, in pixels"
        yield _of_file(text)


def _of_copies(annotations: list[dict[str, Any]], boxes: np.ndarray) -> Iterator[Finding]:
    """Find objects that are in the file twice; ``boxes`` is (N, 4), the annotations' boxes."""
    # One number for each box: equal boxes have the same number, most others one of their own.
    numbers = sum(boxes[:, i] * (i + math.e) for i in range(4))
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    seen: set[tuple] = set()
    copies = []
    for i in np.flatnonzero(counts[places] > 1):
        if annotations[i].get("iscrowd", 0):  # of which evaluation misses none
            continue
        ids = (as_id(annotations[i].get(key)) for key in ("image_id", "category_id"))
        key = (*ids, *boxes[i].tolist())
        if key in seen:
            copies.append(annotations[i])
        seen.add(key)
    if copies:
        text = f"{len(copies)} annotations repeat the image, class and bbox of another (the first "
        text += f"is {_short(copies[0].get('id'))}), and evaluation counts each as missed: remove "
        yield Finding(WARNING, None, None, text + "them")


def _is_plain(annotation: dict[str, Any], sizes: dict, categories: dict, masks: bool) -> bool:
    """Whether none of the rules below can find anything, except a repeated id. This is a quick
    check for COCO's 860,000 annotations; it returns False in case of doubt."""
    try:
        number, image_id, area = annotation["id"], annotation["image_id"], annotation["area"]
        left, top, width, height = box = annotation["bbox"]
        category_id, crowd = annotation["category_id"], annotation.get("iscrowd", 0)
        image_width, image_height = sizes[image_id]
        known = category_id in categories
    except (KeyError, TypeError, ValueError):  # a missing key, another form, an unknown image
        return False
    if not (
        known
        and type(number) is type(image_id) is type(category_id) is type(crowd) is int
        and _NUMBERS.issuperset(map(type, (*box, area)))
        and 0 <= number <= _LARGEST
        and 0 <= crowd <= 1
        and -_PIXELS_OUTSIDE <= left < image_width
        and -_PIXELS_OUTSIDE <= top < image_height
        and width > 0
        and height > 0
        and 0 < left + width <= image_width + _PIXELS_OUTSIDE
        and 0 < top + height <= image_height + _PIXELS_OUTSIDE
        and width * height / 1000 <= area <= 2 * (width + 1) * (height + 1)
        and "ignore" not in annotation
        and "score" not in annotation
        and "keypoints" not in annotation
    ):
        return False
    segmentation = annotation.get("segmentation")
    return _are_plain_polygons(segmentation) if segmentation else not masks or crowd == 1


def _are_plain_polygons(segmentation: Any) -> bool:
    if type(segmentation) is not list:
        return False
    try:
        for polygon in segmentation:
            if type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2:
                return False
            # A NaN or infinite coordinate makes the norm NaN or infinite; a bool is no number.
            if not math.hypot(*polygon) <= _FARTHEST or not _NUMBERS.issuperset(map(type, polygon)):
                return False
    except (OverflowError, TypeError):  # not numbers, or beyond the range of floats
        return False
    return True


def _object_faults(
    annotation: dict[str, Any], size: tuple[int, int] | None, categories: dict, masks: bool
) -> Iterator[Fault]:
    """Yield all faults except of ``id`` and ``image_id``; ``masks``: whether the file has any."""
    if as_id(annotation.get("category_id")) not in categories:
        text = f"has the category_id {_short(annotation.get('category_id'))}, which is not in "
        yield ERROR, ANY_RUN, text + "categories: correct it or add it there"
    if annotation.get("ignore", 0) != 0:
        yield ERROR, ANY_RUN, "has 'ignore', which Detectron2 does not take: use 'iscrowd'"
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        text = f"has the iscrowd {_short(crowd)}, which training takes for a crowd: give 0 or 1"
        yield ERROR, (EVALUATION,), text
    score = annotation.get("score", 0)
    if not is_number(score):  # Detectron2's evaluation reads it of objects, too
        yield ERROR, (EVALUATION,), f"has the score {_short(score)}: take it out, or give a number"
    box = annotation.get("bbox")
    yield from _box_faults(box, size, crowd)
    if "area" in annotation:
        yield from _area_faults(annotation["area"], box)
    if has_mask(annotation):
        yield from _mask_faults(annotation["segmentation"], size)
    elif masks and crowd != 1:
        text = "has no segmentation, as others have: add one, or train a model of boxes"
        yield WARNING, (MASKS,), text
    points = annotation.get("keypoints")
    is_list = isinstance(points, list) and all(map(is_number, points))
    if points and not (is_list and len(points) % 3 == 0):
        text = "has keypoints that are no list of finite numbers, three of each point: correct them"
        yield ERROR, (), text


def has_mask(annotation: dict[str, Any]) -> bool:
    """Whether an annotation has a segmentation; some writers give ``[[]]`` for none."""
    segmentation = annotation.get("segmentation")
    return any(segmentation) if isinstance(segmentation, list) else bool(segmentation)


def _is_box(box: Any) -> bool:
    return (
        type(box) is list
        and len(box) == 4
        and all(map(is_number, box))
        and max(map(abs, box)) <= _LARGEST
    )


def _box_faults(box: Any, size: tuple[int, int] | None, crowd: Any) -> Iterator[Fault]:
    """Yield the faults of a box; ``size``: its image's width and height, None if unknown;
    ``crowd``: its iscrowd."""
    if not _is_box(box):
        text = "give four finite numbers, left, top, width and height in pixels"
        yield ERROR, ANY_RUN, f"has the bbox {_short(box)}: {text}"
        return
    left, top, width, height = map(float, box)
    if width < 0 or height < 0:
        text = "of a negative side: give left, top, width and height in pixels"
        yield ERROR, ANY_RUN, f"has the bbox {_short(box)} {text}"
        return
    if (width == 0 or height == 0) and not crowd:
        text = "training leaves it out and evaluation counts it as missed: correct it"
        yield WARNING, (), f"has the bbox {_short(box)} without area, so {text}"
    if size is None:
        return
    right, bottom = left + width, top + height
    beyond = max(-left, -top, right - size[0], bottom - size[1])
    if left >= size[0] or top >= size[1] or (width and right <= 0) or (height and bottom <= 0):
        text = f"has the bbox {_short(box)} outside the image of {size[0]} x {size[1]} pixels"
        yield ERROR, (), f"{text}: correct it"
    elif beyond > _PIXELS_OUTSIDE:
        text = f"has the bbox {_short(box)}, {beyond:g} pixels beyond the image of {size[0]} x "
        yield WARNING, (), text + f"{size[1]} pixels: training clips it, evaluation does not"


def _area_faults(area: Any, box: Any) -> Iterator[Fault]:
    if not is_number(area) or area < 0:
        yield ERROR, (EVALUATION,), f"has the area {_short(area)}: give it in square pixels"
    elif _is_box(box) and box[2] > 0 and box[3] > 0:
        most, least = 2 * (box[2] + 1) * (box[3] + 1), box[2] * box[3] / 1000
        if not least <= area <= most:
            text = f"has the area {_short(area)}, which does not belong to the bbox {_short(box)}: "
            text += "give it in square pixels, since evaluation tells small from large by it"
            yield WARNING, (), text


def _mask_faults(segmentation: Any, size: tuple[int, int] | None) -> Iterator[Fault]:
    if size is None and isinstance(segmentation, dict):
        return  # an RLE is checked against its image's size
    width, height = size or (0, 0)
    fault = mask_fault(segmentation, height, width)
    if fault:
        yield ERROR, (MASKS,), f"has a broken mask (its segmentation {fault}): correct it"
    elif isinstance(segmentation, list):
        lines = sum(len(polygon) < 6 for polygon in segmentation)
        if lines:
            lost = "the object" if lines == len(segmentation) else "them"
            text = f"has {lines} polygon(s) of fewer than three points: training of masks leaves "
            # pycocotools judges all by the first: two points make a box, fewer nothing it knows.
            stops = (MASK_EVALUATION,) if len(segmentation[0]) < 6 else ()
            yield WARNING, stops, f"{text}{lost} out, and evaluation may misread it: correct it"


def mask_fault(segmentation: Any, height: int, width: int) -> str | None:
    """Find what keeps a segmentation from being a mask of its image.

    pycocotools reads broken masks unchecked, so they must not reach it.

    Args:
        segmentation: polygons, an RLE with a list of counts, or one with compressed counts.
        height, width: the image's size in pixels.

    Returns:
        the fault as the end of a sentence that begins with "its segmentation", or None.
    """
    if isinstance(segmentation, dict):
        return _rle_fault(segmentation, height, width)
    if not isinstance(segmentation, list):
        return f"is neither polygons nor an RLE but {type(segmentation).__name__}"
    if _are_plain_polygons(segmentation):  # quick, since COCO has millions of points
        return None
    for number, polygon in enumerate(segmentation, start=1):
        if not isinstance(polygon, list) or not all(map(is_number, polygon)):
            return f"has a polygon, number {number}, that is no list of finite numbers"
        if len(polygon) % 2:
            return f"has a polygon, number {number}, of {len(polygon)} numbers: x and y go in pairs"
        if polygon and max(max(polygon), -min(polygon)) > _FARTHEST:
            return f"has a polygon, number {number}, that reaches beyond {_FARTHEST} pixels"
    return None


def _rle_fault(rle: dict[str, Any], height: int, width: int) -> str | None:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f"is an RLE of size {_short(size)}, and the image is {height} x {width}"
    if isinstance(counts, str | bytes):
        data = counts if isinstance(counts, bytes) else counts.encode("ascii", "replace")
        runs = _runs(data)
        if runs is None:
            return "is an RLE whose counts are no compressed run lengths"
    elif isinstance(counts, list) and (
        (set(map(type, counts)) == {int} and max(counts) <= _LARGEST)
        or all(isinstance(count, Integral) and is_number(count) for count in counts)
    ):
        runs = counts
    else:
        return "is an RLE whose counts are neither a list of whole numbers nor a text"
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        return f"is an RLE of {sum(runs)} pixels, and the image has {height * width}"
    return None


def _runs(data: bytes) -> list[int] | None:
    """Decode COCO's compressed counts: 5 bits a letter; from the fourth run on, each is stored as
    its difference from the run two places before."""
    runs: list[int] = []
    value, shift = 0, 0
    for letter in data:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs if not shift else None


def _id_faults(
    entry: dict[str, Any], ids: set[int | str], of_object: bool = False
) -> Iterator[Fault]:
    """Yield the faults of an entry's id, and add the id to ``ids``."""
    value = entry.get("id")
    number = as_id(value)
    if of_object and not (isinstance(number, int) and number >= 0):
        yield ERROR, (EVALUATION,), f"has the id {_short(value)}: give a whole number from 0 on"
    elif number is None:
        yield ERROR, ANY_RUN, f"has the id {_short(value)}: give a whole number"
    if number in ids:
        remedy = (
            "number them anew" if of_object else "give each its own, and their annotations that"
        )
        yield ERROR, ANY_RUN, f"repeats the id {_short(value)} of another: {remedy}"
    if number is not None:
        ids.add(number)


def _by_id(entries: Entries) -> dict[int | str, dict[str, Any]]:
    found = {as_id(entry.get("id")): entry for entry in entries.values()}
    found.pop(None, None)
    return found


def as_id(value: Any) -> int | str | None:
    """Return a value as an id, an int or a str, or None if it is none; 3.0 is 3, as in Python."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) or _is_whole(value) else None


def _is_whole(value: Any) -> bool:
    return type(value) is int and -_LARGEST <= value <= _LARGEST
