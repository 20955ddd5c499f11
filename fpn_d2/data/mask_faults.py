"""What is wrong with an annotation's mask, in words; pycocotools reads broken ones as they come."""

import math
import reprlib
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["is_number", "mask_fault"]

# pycocotools walks along a polygon's edges in memory: far ends take all of it.
_FARTHEST = 100_000


def mask_fault(segmentation: Any, height: int, width: int) -> str | None:
    """Find what keeps a segmentation from being a mask of its image.

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
        if _is_sound(polygon):
            continue
        if not isinstance(polygon, list) or not all(is_number(value) for value in polygon):
            return f"has a polygon, number {number}, that is no list of finite numbers"
        if len(polygon) % 2:
            return f"has a polygon, number {number}, of {len(polygon)} numbers: x and y go in pairs"
        if any(abs(value) > _FARTHEST for value in polygon):
            return f"has a polygon, number {number}, that reaches beyond {_FARTHEST} pixels"
    return None


def _is_sound(polygon: Any) -> bool:
    """Whether a polygon has no fault, quickly; False leaves it to be found out why."""
    try:
        values = np.array(polygon)
    except (ValueError, TypeError, OverflowError):
        return False
    return (
        isinstance(polygon, list)
        and values.ndim == 1
        and values.dtype.kind in "if"
        and len(values) % 2 == 0
        and bool((np.abs(values) <= _FARTHEST).all())
    )


def is_number(value: Any) -> bool:
    """Whether a value of an annotation file is a finite number, within the range of floats."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


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
    """The run lengths of COCO's compressed counts: 5 bits a letter, from the third run on
    differences to the run before the last."""
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
