"""An annotation file in COCO's format as columns of numbers, whatever its JSON holds.

COCO train2017 has 860,000 annotations, so sound values are judged many at a time by NumPy, and only
what is odd is looked at one by one.

Shape shorthand: N images, R annotations, E entries of any list.
"""

import codecs
import itertools
import json
import locale
import math
import reprlib
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = [
    "AnnotationFile",
    "Entries",
    "file_name",
    "image_size",
    "is_number",
    "mask_fault",
    "read_annotations",
    "repeated",
]

_LARGEST = 2**63 - 1  # what NumPy and COCO's evaluation take
_LONGEST_SIDE = 2**31 - 1  # of an image, in pixels
# pycocotools walks along a polygon's edges in memory, so distant corners take all of it.
_FARTHEST = 100_000
_CHUNK = 1000  # annotations whose polygons are judged together


def read_annotations(path: str) -> tuple[Any, str | None]:
    """Read a JSON file of any content.

    Args:
        path: the file.

    Returns:
        its content and None, or None and a sentence that says why it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if text.startswith("\ufeff"):
            return None, f"{path} begins with a byte-order mark: write it as UTF-8 without BOM"
        where = f"line {error.lineno} column {error.colno}"
        return None, f"{path} is not valid JSON at {where} ({error.msg}): write the file again"
    except RecursionError:
        return None, f"{path} is nested too deeply for an annotation file: write it again"
    except (OSError, ValueError, MemoryError) as error:  # not UTF-8, a number of 5,000 digits
        reason = str(error).partition(";")[0] or "too large"  # Python's advice comes after
        return None, f"annotation file {path} cannot be read ({reason}): write the file again"
    encoding = codecs.lookup(locale.getpreferredencoding(False)).name
    if encoding != "utf-8" and not text.isascii():  # Detectron2 reads it in the default encoding
        return None, (
            f"{path} has letters beyond ASCII, which Detectron2 would read as {encoding}, the "
            "default encoding here: set PYTHONUTF8=1 and start again"
        )
    return content, None


def image_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an entry of ``images`` in pixels, or None where they are not given."""
    size = image.get("width"), image.get("height")
    return size if all(_is_whole(side) and 0 < side <= _LONGEST_SIDE for side in size) else None


def file_name(image: dict[str, Any] | None) -> str | None:
    """The file name of an entry of ``images``, or None where it has none."""
    name = image.get("file_name") if image is not None else None
    return name if isinstance(name, str) and name and "\0" not in name else None


def is_number(value: Any) -> bool:
    """Whether a value of an annotation file is a finite number within the range of floats."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


class Entries:
    """One list of an annotation file.

    Attributes:
        name: the list's key.
        entries: its JSON objects; what is no object is left out.
        positions: the place of each of them in the list.
        strays: the places of what is no object.
        ids: the id of each entry, a whole number or a text, or None where it has no such id.
        repeated: (E,) bool, whether an earlier entry has the same id.
    """

    def __init__(self, name: str, values: Sequence[Any]):
        self.name = name
        self.positions = [i for i, value in enumerate(values) if isinstance(value, dict)]
        self.strays = [i for i, value in enumerate(values) if not isinstance(value, dict)]
        self.entries = [values[i] for i in self.positions]
        self.ids = _ids(self.column("id"))
        self.repeated = repeated(self.ids)
        self._index = {number: i for i, number in enumerate(self.ids) if number is not None}

    def __len__(self) -> int:
        return len(self.entries)

    def column(self, key: str) -> list[Any]:
        """The value of this key in each entry; None where an entry does not have it."""
        return [entry.get(key) for entry in self.entries]

    def lacks(self, key: str) -> np.ndarray:
        """(E,) bool: whether an entry does not have this key."""
        return np.array([key not in entry for entry in self.entries], dtype=bool)

    def find(self, values: list[Any]) -> np.ndarray:
        """(len(values),) int64: the entries that have these ids, or -1."""
        return np.array([self._index.get(number, -1) for number in _ids(values)], dtype=np.int64)


class AnnotationFile:
    """The lists of a file and, as columns, what is judged about its annotations.

    Attributes:
        path: the file.
        images, categories, annotations: the lists.
        sizes: (N, 2) float64, width and height of the images in pixels; NaN where there is none.
        unsized: (N, 2) bool, whether a size is missing that should be there.
        missing: the keys of lists that are not there, or are no lists.
        names: N file names of images; None where there is none.
        of_image, of_category: (R,) int64, index into the lists; -1 where unknown.
        size_of_image: (R, 2) float64, width and height of each annotation's image, or NaN.
        boxes: (R, 4) float64, left, top, width and height in pixels; NaN where they are not four
            finite numbers.
        beyond: (R,) float64, how far each box goes beyond its image, in pixels, below 0 where it
            does not; NaN where a side is negative or the image is unknown.
        areas: (R,) float64, in square pixels; NaN where it is no finite number.
        crowds: (R,) bool.
        has_mask: (R,) bool, whether there is a segmentation, sound or broken.
        mask_faults: what is wrong with the segmentations that are broken, by index.
        short_polygons: how many polygons of a sound segmentation have fewer than three points,
            by index, where there are such.
        left_out: (R,) bool, whether Detectron2 drops the object for its polygons.
    """

    def __init__(self, content: dict[str, Any], path: str = "", *, sizes_needed: bool = True):
        """
        Args:
            content: the parsed file, a JSON object.
            path: the file.
            sizes_needed: whether every image must have a width and a height.
        """
        self.path = path
        lists = {key: content.get(key) for key in ("images", "categories", "annotations")}
        # Files of COCO's test images have no annotations.
        self.missing = [
            key
            for key, value in lists.items()
            if not isinstance(value, list) and (key != "annotations" or key in content)
        ]
        self.images, self.categories, self.annotations = (
            Entries(key, value if isinstance(value, list) else ()) for key, value in lists.items()
        )
        keys = "width", "height"
        sides = np.stack([_whole(self.images.column(key)) for key in keys], axis=1)
        self.sizes = np.where((sides > 0) & (sides <= _LONGEST_SIDE), sides, np.nan)
        lacking = np.stack([self.images.lacks(key) for key in keys], axis=1)
        self.unsized = np.isnan(self.sizes) & (~lacking | sizes_needed)
        self.names = [file_name(image) for image in self.images.entries]
        column = self.annotations.column
        self.of_image = self.images.find(column("image_id"))
        self.of_category = self.categories.find(column("category_id"))
        # The last row is that of unknown images.
        self.size_of_image = np.append(self.sizes, [[np.nan] * 2], axis=0)[self.of_image]
        self.boxes = _boxes(column("bbox"))
        corners, sides = self.boxes[:, :2], self.boxes[:, 2:]
        beyond = np.concatenate([-corners, corners + sides - self.size_of_image], axis=1)
        self.beyond = np.where((sides >= 0).all(axis=1), beyond.max(axis=1), np.nan)
        self.areas = _numbers(column("area"))
        self.crowds = np.array([crowd == 1 for crowd in column("iscrowd")], dtype=bool)
        self._judge_masks(column("segmentation"))

    def name_of_image(self, annotation: int) -> str | None:
        """The file name of the image that an annotation is of."""
        image = self.of_image[annotation]
        return None if image < 0 else self.names[image]

    def _judge_masks(self, segmentations: list[Any]) -> None:
        self.has_mask = np.array([bool(value) for value in segmentations], dtype=bool)
        self.left_out = np.zeros(len(segmentations), dtype=bool)
        self.mask_faults: dict[int, str] = {}
        self.short_polygons: dict[int, int] = {}
        given = np.flatnonzero(self.has_mask).tolist()
        for start in range(0, len(given), _CHUNK):
            chunk = given[start : start + _CHUNK]
            if not _are_plain_polygons([segmentations[i] for i in chunk]):
                for i in chunk:
                    self._judge_mask(i, segmentations[i])

    def _judge_mask(self, index: int, segmentation: Any) -> None:
        size = self.size_of_image[index]
        if isinstance(segmentation, list):
            polygons = [polygon for polygon in segmentation if isinstance(polygon, list)]
            kept = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
            self.left_out[index] = not kept
        elif np.isnan(size).any():
            return  # an RLE is compared with its image
        width, height = np.nan_to_num(size).astype(int).tolist()
        fault = mask_fault(segmentation, height, width)
        if fault:
            self.mask_faults[index] = fault
        elif isinstance(segmentation, list) and len(kept) < len(segmentation):
            self.short_polygons[index] = len(segmentation) - len(kept)


def mask_fault(segmentation: Any, height: int, width: int) -> str | None:
    """Find what keeps a segmentation from being a mask of its image.

    pycocotools reads broken masks as they come, so they must not get there.

    Args:
        segmentation: polygons, an RLE with a list of counts, or one with compressed counts.
        height, width: the image's, in pixels.

    Returns:
        the fault as the end of a sentence that begins with "its segmentation", or None.
    """
    if isinstance(segmentation, dict):
        return _rle_fault(segmentation, height, width)
    if not isinstance(segmentation, list):
        return f"is neither polygons nor an RLE but {type(segmentation).__name__}"
    for number, polygon in enumerate(segmentation, start=1):
        polygon = polygon.tolist() if isinstance(polygon, np.ndarray) else polygon
        if not isinstance(polygon, list) or not all(map(is_number, polygon)):
            return f"has a polygon, number {number}, that is no list of finite numbers"
        if len(polygon) % 2:
            return f"has a polygon, number {number}, of {len(polygon)} numbers: x and y go in pairs"
        if any(abs(value) > _FARTHEST for value in polygon):
            return f"has a polygon, number {number}, that reaches beyond {_FARTHEST} pixels"
    return None


def _are_plain_polygons(segmentations: list[Any]) -> bool:
    """Whether all of these are sound polygons of three points or more."""
    if set(map(type, segmentations)) != {list}:
        return False
    polygons = list(itertools.chain.from_iterable(segmentations))
    if set(map(type, polygons)) != {list}:
        return False
    lengths = np.fromiter(map(len, polygons), dtype=np.int64, count=len(polygons))
    values = _numbers(list(itertools.chain.from_iterable(polygons)))
    plain = (lengths >= 6).all() and (lengths % 2 == 0).all()
    return bool(plain and (np.abs(values) <= _FARTHEST).all())  # NaN is not


def _rle_fault(rle: dict[str, Any], height: int, width: int) -> str | None:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f"is an RLE of size {reprlib.repr(size)}, and the image is {height} x {width}"
    if isinstance(counts, str | bytes):
        data = counts if isinstance(counts, bytes) else counts.encode("ascii", "replace")
        runs = _runs(data)
        if runs is None:
            return "is an RLE whose counts are no compressed run lengths"
    elif isinstance(counts, list) and all(
        isinstance(count, Integral) and is_number(count) for count in counts
    ):
        runs = counts
    else:
        return "is an RLE whose counts are neither a list of whole numbers nor a text"
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        return f"is an RLE of {sum(runs)} pixels, and the image has {height * width}"
    return None


def _runs(data: bytes) -> list[int] | None:
    """Decode COCO's compressed counts: 5 bits a letter; from the third run on, each run is the
    difference to the one before the last."""
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


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _ids(values: list[Any]) -> list[int | str | None]:
    """What can be the ids among these values; 3.0 is 3, as it is for Python."""
    if set(map(type, values)) == {int} and min(values) >= -_LARGEST and max(values) <= _LARGEST:
        return values
    found: list[int | str | None] = []
    for value in values:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        found.append(value if isinstance(value, str) or _is_whole(value) else None)
    return found


def repeated(values: list[int | str | None]) -> np.ndarray:
    """(len(values),) bool: whether a value other than None stands further ahead too."""
    found, seen = np.zeros(len(values), dtype=bool), set()
    if len(set(values)) < len(values):
        for i, value in enumerate(values):
            found[i] = value is not None and value in seen
            seen.add(value)
    return found


def _numbers(values: list[Any]) -> np.ndarray:
    """(len(values),) float64: the finite numbers among these values, NaN for the others."""
    if set(map(type, values)) <= {int, float}:
        try:
            found = np.array(values, dtype=np.float64)
            return np.where(np.isfinite(found), found, np.nan)
        except OverflowError:  # a whole number of more than 308 digits
            pass
    return np.array([float(v) if is_number(v) else math.nan for v in values], dtype=np.float64)


def _whole(values: list[Any]) -> np.ndarray:
    """(len(values),) float64: the whole numbers among these values, NaN for the others."""
    if set(map(type, values)) == {int}:
        found = _numbers(values)
        return np.where(np.abs(found) < _LARGEST, found, np.nan)
    return np.array([float(v) if _is_whole(v) else math.nan for v in values], dtype=np.float64)


def _boxes(values: Iterable[Any]) -> np.ndarray:
    """(R, 4) float64; a row of NaN for what is no list of four finite numbers."""
    rows = [box if isinstance(box, list) and len(box) == 4 else [None] * 4 for box in values]
    boxes = _numbers(list(itertools.chain.from_iterable(rows))).reshape(-1, 4)
    return np.where((np.abs(boxes) < _LARGEST).all(axis=1, keepdims=True), boxes, np.nan)
