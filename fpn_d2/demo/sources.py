"""The images and videos that a demo looks at."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image

from ..data.images import image_fault
from ..utils.errors import UserError

# The most pixels of an image or a frame, 192 MB as RGB; its header is read before it is decoded.
MAX_PIXELS = 64_000_000

_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


@dataclasses.dataclass(frozen=True)
class Sources:
    """The files that a demo is given.

    Args:
        images: the image files, in the order given; those of a folder by name.
        videos: the video files, in the order given.
        skipped: the files in folders that are neither.
    """

    images: tuple[str, ...]
    videos: tuple[str, ...]
    skipped: tuple[str, ...]


def find_sources(inputs: Sequence[str], *, max_pixels: int = MAX_PIXELS) -> Sources:
    """Sort inputs into images and videos, and check that the images can be read.

    Args:
        inputs: files and folders. A folder stands for the images and videos directly in it. A file
            that is named twice is taken once.
        max_pixels: the most pixels that an image may have.

    Raises:
        UserError: if an input does not exist, an image cannot be read or has too many pixels, or
            there is neither image nor video.
    """
    images, videos, skipped = {}, {}, []
    for path in inputs:
        if os.path.isdir(path):
            entries = [os.path.join(path, name) for name in sorted(os.listdir(path))]
            files = [entry for entry in entries if os.path.isfile(entry)]
            known = [file for file in files if _is_video(file) or _is_image(file)]
            skipped += [file for file in files if not (_is_video(file) or _is_image(file))]
        elif os.path.isfile(path):
            known = [path]
        else:
            raise UserError(_missing(path))
        for file in known:
            (videos if _is_video(file) else images).setdefault(os.path.abspath(file), file)
    if not images and not videos:
        raise UserError(
            f"there is no image or video in {', '.join(inputs) or 'nothing'}"
            + (f" ({_listed(skipped)})" if skipped else "")
            + "; name image files, a video, or a folder of them"
        )
    for path in images.values():
        fault = image_fault(path, max_pixels=max_pixels)
        if fault:
            remedy = "raise --max-pixels" if "more than the limit" in fault else "take it out"
            raise UserError(f"image {path} {fault}; {remedy}, or convert it")
    return Sources(tuple(images.values()), tuple(videos.values()), tuple(skipped))


def skipped_line(skipped: Sequence[str]) -> str:
    """Return a line that counts and names the files that a demo skips."""
    return f"skipped: {_listed(skipped)}"


def read_rgb(path: str) -> np.ndarray:
    """Read an image and turn it as its EXIF orientation says.

    Args:
        path: the file; :func:`find_sources` has checked it.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    return np.ascontiguousarray(read_image(path, format="RGB"))


def _listed(files: Sequence[str], most: int = 5) -> str:
    names = ", ".join(os.path.basename(file) for file in files[:most])
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return f"{len(files)} other file{'s' * (len(files) != 1)}: {names}{more}"


def _missing(path: str) -> str:
    if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*", path):
        return f"input {path} does not exist; config overrides come last, after --output DIR"
    return f"input {path} does not exist; name image files, a video, or a folder of them"


def _is_video(path: str) -> bool:
    return path.lower().endswith(_VIDEOS)


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in Image.registered_extensions()
