"""The one reader of image files in this package, which says in words what is wrong with a file.

Pixels have 8 bits a channel. Of 16 bits, the upper 8 are kept: Pillow does so for colours, and this
module for grey, which Pillow would clip at 255. Files of 32-bit numbers do not tell their range and
are refused. Images are turned once, by their EXIF orientation, as in Detectron2.
"""

import contextlib
import io
import itertools
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import IO, Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import ExifTags, Image, UnidentifiedImageError

from ..utils.errors import UserError, reason_of
from ..utils.files import file_alike

logger = logging.getLogger(__name__)

_TURNED_ASIDE = (5, 6, 7, 8)
# The formats whose 16-bit grey has white at 65535, whatever Pillow's mode.
_DEEP_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FRAMES = "has several frames or pages, of which the first alone is read"
_DARK = (
    "uses less than a sixteenth of the range of its 16 bits, so that it is all but black with 8: "
    "stretch all images by one factor"
)
_STORED = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")  # modes that a TIFF keeps as they are
PROGRAM = "EPS"  # Pillow's name of a format that is run, not decoded
_CHUNK = 16  # images that a process reads before it reports


def read_image(path: str, image_format: str = "RGB") -> np.ndarray:
    """Read an image, turned as its EXIF data say, with 8 bits a channel.

    Args:
        path: the file; :func:`look_at` says whether it is sound.
        image_format: as ``cfg.INPUT.FORMAT``.

    Returns:
        (H, W, C) uint8, contiguous; float64 for YUV-BT.601.

    Raises:
        UserError: for a program or pixels of unknown range; Pillow's own errors for other faults.
    """
    name = f"image {path}"
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        _tell(name, _frames(image))
        return pixels_of(image, image_format, name)


def pixels_of(image: Image.Image, image_format: str, name: str = "a PIL image") -> np.ndarray:
    """Read an open image as :func:`read_image` does; ``name`` begins the sentences about it."""
    loaded = _loaded(image, name)
    return np.ascontiguousarray(detection_utils.convert_PIL_to_numpy(loaded, image_format))


def _loaded(image: Image.Image, name: str) -> Image.Image:
    """Load the pixels of an opened image; log each kind of oddity once."""
    fault = _format_fault(image)
    if fault is not None:
        raise UserError(f"{name} {fault}")
    loaded, dark = _load(image)
    _tell(name, dark)
    return loaded


_told: set[str] = set()


def _tell(name: str, remark: str | None) -> None:
    if remark is not None and remark not in _told:
        _told.add(remark)
        logger.warning("%s %s (this is said once)", name, remark)


def _format_fault(image: Image.Image) -> str | None:
    """Say why an image is not read, as the end of a sentence: it is a program, or the range of its
    pixels is unknown. None if it is read."""
    if image.format == PROGRAM:
        return "is a program in PostScript, which Pillow would have Ghostscript run: save it as PNG"
    if _is_deep(image) or not image.mode.startswith(("I", "F")):
        return None
    if image.mode.startswith("I;16"):  # a crop or a copy, which has lost its file
        return (
            "has 16 bits and no file that says what is white: bring its values to 0 to 255 (divide "
            "those of 0 to 65535 by 257) and convert it to L"
        )
    kind = "floats" if image.mode == "F" else "whole numbers"
    return (
        f"has pixels that are {kind} of any size ({image.format or 'no file'}, Pillow's mode "
        f"{image.mode}), of which nothing says what is white: bring them to 0 to 255, or save it "
        "with 8 or 16 bits a channel"
    )


def _is_deep(image: Image.Image) -> bool:
    """Whether an image is grey, of 9 to 16 bits, with a known range."""
    # In Pillow's mode I, a TIFF has 32 bits or is signed.
    modes = ("I;16",) if image.format == "TIFF" else ("I",)
    return image.format in _DEEP_FORMATS and image.mode.startswith(modes)


def _load(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Return an image of a known range, turned and with 8 bits a channel, and what is odd in it."""
    deep, remark = _is_deep(image), None
    tags = getattr(image, "tag_v2", {})
    bits, negative = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_PHOTOMETRIC) == 0
    image.load()  # turns a TIFF, which then forgets its orientation
    if _orientation(image) is not None:
        image = detection_utils._apply_exif_orientation(image)
    if deep:
        grey = np.asarray(image).astype(np.uint16)
        grey = (1 << bits) - 1 - grey if negative else grey
        remark = _DARK if bits == 16 and 0 < grey.max() < 1 << 12 else None
        image = Image.fromarray((grey >> (bits - 8)).astype(np.uint8))
    return image, remark


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as in Detectron2: for broken EXIF data Pillow may raise anything
        return None


def _frames(image: Image.Image) -> str | None:
    """Return a remark if a file has several images; previews and layers do not count as images."""
    with contextlib.suppress(Exception):  # what follows the first frame may be truncated
        if image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False):
            return _FRAMES
    return None


class _PixelsHandler(PathHandler):
    """Opens image files for Detectron2's own reader: where that would read other pixels than
    :func:`read_image`, it gets the latter's pixels as an 8-bit file without an orientation."""

    PREFIX = "fpn_d2_pixels://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        path = path.removeprefix(self.PREFIX)
        name = f"image {path}"
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(PathManager.open(path, "rb"))
            image = Image.open(file)
            is_turned = image.format == "TIFF" and _orientation(image) in range(2, 9)
            _tell(name, _frames(image))
            if not is_turned and image.mode[0] not in "IF" and image.format != PROGRAM:
                file.seek(0)
                stack.pop_all()
                return file
            loaded = _loaded(image, name)
        if loaded.mode not in _STORED:
            loaded = loaded.convert("RGB")
        content = io.BytesIO()
        # A copy, since an opened TIFF would save its tags, too.
        loaded.copy().save(content, "TIFF", compression="raw")
        content.seek(0)
        return content


PathManager.register_handler(_PixelsHandler(), allow_override=True)


def read_as_here(path: str | os.PathLike) -> str:
    """Return a file name by which Detectron2's ``read_image`` reads the same pixels as ours."""
    return _PixelsHandler.PREFIX + os.fspath(path)


def read_sound_image(record: dict[str, Any], folder: str = "") -> np.ndarray:
    """Read an image of a data set, given in Detectron2's format, as (H, W, 3) uint8, RGB; its
    ``file_name`` is relative to ``folder``.

    Raises:
        UserError: if it cannot be read, or its size is not that of the record.
    """
    record = {**record, "file_name": os.path.join(folder, record["file_name"])}

    def read(record: dict[str, Any]) -> np.ndarray:
        image = read_image(record["file_name"])
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
    """Call a function that reads an image of a data set; only if it fails, find out why.

    Args:
        function: takes the record; a mapper, for example.
        record: the image in Detectron2's format; one without a ``file_name`` has no fault.

    Returns:
        what the function returns and None, or None and the image's fault (:func:`look_at`).
    """
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        return function(record), None
    except Exception:
        if "file_name" not in record:
            raise
        sides = record.get("width"), record.get("height")
        fault, _ = look_at(record["file_name"], *sides)
        labels = record.get("sem_seg_file_name")
        if fault is None and labels is not None:
            fault, _ = look_at(labels, *sides)
            fault = fault and f"has a label map, {labels}, that {fault}"
        if fault is not None:
            return None, fault
        # The image is sound: the disk failed once, or the error has another cause. Try again, with
        # the random numbers that the first try would have drawn.
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)
        return function(record), None


def look_at(
    path: str,
    width: int | None = None,
    height: int | None = None,
    max_pixels: int | None = None,
    *,
    header: bool = False,
) -> tuple[str | None, str | None]:
    """Read an image file to its end; find what makes it unusable, or what is remarkable about it.

    Args:
        path: the file.
        width, height: those in the annotation file, in pixels; None is not compared.
        max_pixels: the largest number of pixels that is decoded; None is Pillow's own limit.
        header: whether to leave the pixels undecoded, unless they are 16-bit grey.

    Returns:
        the fault, and the remark on an image that has none; each is the end of a sentence that
        begins with the image's name, or None.
    """
    try:
        return _look(path, width, height, max_pixels, header)
    except FileNotFoundError:
        return f"does not exist{file_alike(path)}", None
    except UnidentifiedImageError:
        with PathManager.open(path, "rb") as file:
            if file.read(4) in _TIFF:
                return (
                    "is a TIFF of a kind that Pillow does not read, such as colours of 32 bits or "
                    "more than four bands: save it as RGB or grey of 8 or 16 bits",
                    None,
                )
        return "is no image of a format that Pillow knows", None
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS
        return f"has more than {most:,} pixels, which Pillow does not open", None
    except Exception as error:  # depending on the format OSError, SyntaxError, ValueError, ...
        return f"cannot be read ({reason_of(getattr(error, 'strerror', None) or error)})", None


def _look(
    path: str, width: int | None, height: int | None, max_pixels: int | None, header: bool
) -> tuple[str | None, str | None]:
    with warnings.catch_warnings(), PathManager.open(path, "rb") as file:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            found = image.size
            # Before the EXIF data are read, for which Pillow decodes a PNG.
            if max_pixels is not None and found[0] * found[1] > max_pixels:
                limit = f"more than the limit of {max_pixels:,}"
                return f"has {found[0]} x {found[1]} pixels, {limit}", None
            # Sizes are compared by the header: a file far larger than annotated is not decoded.
            as_said = width in (None, found[0]) and height in (None, found[1])
            if not (header and as_said and image.format == "PNG" and "exif" not in image.info):
                found = turned_size(image)
            if width not in (None, found[0]) or height not in (None, found[1]):
                text = f"{found[0]} x {found[1]} pixels, and the annotation file says "
                text += f"{width} x {height}"
                if found != image.size == (width, height):
                    text += ", its size before its EXIF orientation turns it"
                return f"has {text}", None
            fault, frames = _format_fault(image), _frames(image)
            if fault is not None or (header and not _is_deep(image)):
                return fault, frames
            loaded, dark = _load(image)
            loaded.convert("RGB")
    return None, frames or dark


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels of an opened image once it is turned as its EXIF data say."""
    if _orientation(image) not in _TURNED_ASIDE:
        return image.size
    if image.format == "TIFF":  # its size is turned when it is loaded, or already
        image.load()
        return image.size
    return image.size[::-1]


def look_at_all(
    images: Sequence[tuple[str, int | None, int | None]], workers: int | None = None
) -> Iterator[tuple[str | None, str | None]]:
    """Call :func:`look_at` for many images in several processes; yield results in their order.

    Args:
        images: path, width and height of each.
        workers: the number of processes; None is one for each CPU.

    Raises:
        UserError: if a process was ended from outside.
    """
    # More processes than chunks would have nothing to do.
    workers = min(workers or os.cpu_count() or 1, -(-len(images) // _CHUNK))
    if workers <= 1:
        yield from itertools.starmap(look_at, images)
        return
    try:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(look_at, *zip(*images, strict=True), chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads images was ended from outside, perhaps for memory: use fewer, "
            "such as --workers 1"
        ) from error
