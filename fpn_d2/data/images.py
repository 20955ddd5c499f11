"""Image files: the one reader of the whole package, and what is wrong with a file, in words."""

import itertools
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from ..utils.errors import UserError
from ..utils.files import file_alike

_ORIENTATION = 0x0112  # EXIF
_TURNED_ASIDE = (5, 6, 7, 8)
_CHUNK = 16  # images that a process reads before it reports


def read_image(path: str, image_format: str = "RGB") -> np.ndarray:
    """Read an image, turned as its EXIF data say.

    Args:
        path: the file; :func:`image_fault` says whether it is sound.
        image_format: as ``cfg.INPUT.FORMAT``.

    Returns:
        (H, W, C) uint8, contiguous.
    """
    return np.ascontiguousarray(detection_utils.read_image(path, format=image_format))


def read_sound_image(record: dict[str, Any], image_format: str) -> np.ndarray:
    """Read an image of a data set, given in Detectron2's format, as (H, W, C) uint8.

    Raises:
        UserError: where it cannot be read, or has another size.
    """

    def read(record: dict[str, Any]) -> np.ndarray:
        image = read_image(record["file_name"], image_format)
        detection_utils.check_image_size(record, image)
        return image

    image, fault = use_image(read, record)
    if fault is not None:
        raise UserError(
            f"image {record['file_name']} {fault}: replace it, or take it out of the annotation "
            "file (tools/check_dataset.py lists all such images)"
        )
    return image


def use_image(
    function: Callable[[dict[str, Any]], Any], record: dict[str, Any]
) -> tuple[Any, str | None]:
    """Call a function that reads an image of a data set, and ask why only where it fails.

    Args:
        function: takes the record, such as a mapper.
        record: the image in Detectron2's format.

    Returns:
        what the function returns and None, or None and the image's fault (:func:`image_fault`).
    """
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        return function(record), None
    except Exception:
        fault = image_fault(record["file_name"], record.get("width"), record.get("height"))
        if fault is not None:
            return None, fault
        # The image is sound: the disk failed once, or the error is not the image's. Once more, with
        # the random numbers that would have been drawn had it not failed.
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)
        return function(record), None


def image_fault(
    path: str, width: int | None = None, height: int | None = None, max_pixels: int | None = None
) -> str | None:
    """Read an image file to its end and find what keeps it from being used.

    Args:
        path: the file.
        width, height: what the annotation file says, in pixels; None is compared with nothing.
        max_pixels: the largest number of pixels that is decoded; None is Pillow's own limit.

    Returns:
        the fault as the end of a sentence that begins with the image's name, or None.
    """
    try:
        return _fault(path, width, height, max_pixels)
    except FileNotFoundError:
        return f"does not exist{file_alike(path)}"
    except UnidentifiedImageError:
        return "is no image of a format that Pillow knows"
    except Image.DecompressionBombError:
        return f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, which Pillow does not open"
    except Exception as error:  # depending on the format OSError, SyntaxError, ValueError, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"cannot be read ({' '.join(reason.split())})"


def _fault(path: str, width: int | None, height: int | None, max_pixels: int | None) -> str | None:
    with warnings.catch_warnings(), PathManager.open(path, "rb") as file:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            found = image.size
            # Before EXIF, for which Pillow decodes a PNG.
            if max_pixels is not None and found[0] * found[1] > max_pixels:
                return f"has {found[0]} x {found[1]} pixels, more than the limit of {max_pixels:,}"
            # Detectron2 turns images as EXIF says before it compares their size.
            if image.getexif().get(_ORIENTATION) in _TURNED_ASIDE:
                found = found[::-1]
            # From the header, so that what is too large to be meant is not decoded.
            if width not in (None, found[0]) or height not in (None, found[1]):
                said = f"the annotation file says {width} x {height}"
                return f"has {found[0]} x {found[1]} pixels, and {said}"
            image.load()
            image.convert("RGB")
    return None


def image_faults(
    images: Sequence[tuple[str, int | None, int | None]], workers: int | None = None
) -> Iterator[str | None]:
    """:func:`image_fault` of many images in their order, by several processes.

    Args:
        images: path, width and height of each.
        workers: the number of processes; None is one for each CPU.

    Raises:
        UserError: where a process was ended from outside.
    """
    # More processes than chunks would have nothing to do.
    workers = min(workers or os.cpu_count() or 1, -(-len(images) // _CHUNK))
    if workers <= 1:
        yield from itertools.starmap(image_fault, images)
        return
    try:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(image_fault, *zip(*images, strict=True), chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads images was ended from outside, perhaps for memory: use fewer, "
            "such as --workers 1"
        ) from error
