"""The images and videos that a demo looks at."""

import contextlib
import glob
import hashlib
import http.client
import os
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import supervision as sv
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir
from PIL import Image

from ..data.coco_json import read_annotations
from ..data.datasets.folders import make_ready
from ..data.images import PROGRAM, look_at
from ..utils.errors import UserError
from ..utils.files import is_config_key, is_local
from ..utils.progress import working

# The most pixels of an image or a frame, 192 MB as RGB; its header is read before it is decoded.
MAX_PIXELS = 64_000_000

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
_REMEDY = "name image files, a video, a folder or a pattern of them, or their URLs"


class Sources(NamedTuple):
    """The files that a demo is given.

    Args:
        images: the image files, in the order given; those of a folder by name.
        videos: the video files, in the order given.
        skipped: the files in folders that are neither.
        urls: the URL of each downloaded file, by the file's path.
    """

    images: tuple[str, ...]
    videos: tuple[str, ...]
    skipped: tuple[str, ...]
    urls: dict[str, str]


def find_sources(inputs: Sequence[str], *, max_pixels: int = MAX_PIXELS) -> Sources:
    """Sort inputs into images and videos, and check that they can be read.

    Args:
        inputs: files, folders, patterns such as ``photos/*.jpg``, and URLs. A folder stands for
            the images and videos directly in it. A file that is named twice is taken once.
        max_pixels: the most pixels that an image or a frame may have.

    Raises:
        UserError: if an input does not exist, cannot be read or has too many pixels, or there is
            neither image nor video.
    """
    images, videos, skipped, urls = {}, {}, [], {}
    # Pillow only writes some formats, such as PDF; an MPO is read as the JPEG that it begins with.
    formats = [
        ending
        for ending, kind in Image.registered_extensions().items()
        if (kind in Image.OPEN and kind != PROGRAM) or kind == "MPO"
    ]
    for path in inputs:
        if not is_local(path):
            known = [_downloaded(path)]
            urls[known[0]] = path
        elif os.path.isdir(path):
            # Hidden files are not the user's own; macOS makes ._photo.jpg, for instance.
            shown = sorted(name for name in os.listdir(path) if not name.startswith("."))
            entries = [os.path.join(path, name) for name in shown]
            files = [entry for entry in entries if os.path.isfile(entry)]
            known = [file for file in files if file.lower().endswith((*VIDEOS, *formats))]
            skipped += sorted({*files} - {*known})
        elif os.path.isfile(path):
            known = [path]
        elif known := sorted(filter(os.path.isfile, glob.glob(path, recursive=True))):
            pass
        elif is_config_key(path):
            raise UserError(
                f"input {path} does not exist; config overrides come last, after --output DIR"
            )
        else:
            raise UserError(f"input {path} does not exist; {_REMEDY}")
        for file in known:
            names = file.lower(), urlsplit(urls.get(file, "")).path.lower()
            kind = videos if any(name.endswith(VIDEOS) for name in names) else images
            kind.setdefault(os.path.abspath(file), file)
    if not images and not videos:
        raise UserError(
            f"there is no image or video in {', '.join(inputs) or 'nothing'}"
            + (f" ({listed(skipped)})" if skipped else "")
            + f"; {_REMEDY}"
        )
    with working(f"checking {len(images)} images"):
        for path in images.values():
            fault, _ = look_at(path, max_pixels=max_pixels)
            if fault:
                remedy = "raise --max-pixels" if "more than the limit" in fault else "take it out"
                raise UserError(f"image {urls.get(path, path)} {fault}; {remedy}, or convert it")
    for path in videos.values():
        check_video(path, urls.get(path, path), max_pixels=max_pixels)
    return Sources(tuple(images.values()), tuple(videos.values()), tuple(skipped), urls)


def _downloaded(url: str) -> str:
    try:
        options = {}
        if url.startswith(("http://", "https://", "ftp://")):
            # The cache knows a URL by its path alone, and several hosts may have that path.
            own = hashlib.sha256(url.encode()).hexdigest()[:16]
            options["cache_dir"] = os.path.join(get_cache_dir(), "urls", own)
        path = PathManager.get_local_path(url, **options)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"input {url} cannot be downloaded ({error}); {_REMEDY}") from error
    if not os.path.isfile(path):
        raise UserError(f"input {url} is of no kind that can be downloaded; {_REMEDY}")
    return path


def check_video(path: str, name: str = "", *, max_pixels: int = MAX_PIXELS) -> sv.VideoInfo:
    """Read the size, the rate and the number of a video's frames.

    Args:
        path: the path of the video.
        name: its name in errors; empty for the path.
        max_pixels: the most pixels that a frame may have.

    Raises:
        UserError: if it cannot be read, or its frames have too many pixels.
    """
    try:
        info = sv.VideoInfo.from_video_path(path)
    except Exception as error:  # supervision raises nothing narrower
        raise UserError(
            f"video {name or path} cannot be read; convert it, or name a file with a video stream"
        ) from error
    if info.width * info.height > max_pixels:
        raise UserError(
            f"video {name or path} has frames of {info.width} x {info.height} pixels, more than "
            f"the limit of {max_pixels:,}; raise --max-pixels, or scale it down"
        )
    return info


def image_ids(cfg: CfgNode, paths: Sequence[str]) -> list[int]:
    """Return the ids that images have in a test set, if one holds them all; else number them.

    Args:
        cfg: the config; sets of ``DATASETS.TEST`` without an annotation file are skipped.
        paths: the paths of the images.

    Returns:
        an id for each image; if no test set holds them all, the numbers from 1 on.
    """
    wanted = [os.path.realpath(path) for path in paths]
    for name in filter(DatasetCatalog.list().__contains__, cfg.DATASETS.TEST):
        about = MetadataCatalog.get(name)
        root = os.path.realpath(about.get("image_root", ""))
        if not all(path.startswith(f"{root}{os.sep}") for path in wanted):
            continue
        with contextlib.suppress(UserError):  # a set that cannot be converted has no ids
            make_ready(name)
        if not os.path.isfile(about.get("json_file", "")):
            continue
        content, fault = read_annotations(about.json_file)
        if fault is None and isinstance(content, dict):
            images = content.get("images")
            images = [i for i in images if _is_named(i)] if isinstance(images, list) else []
            ids = {os.path.realpath(os.path.join(root, i["file_name"])): i["id"] for i in images}
            if ids.keys() >= set(wanted):
                return [ids[path] for path in wanted]
    return [*range(1, len(paths) + 1)]


def _is_named(image: Any) -> bool:
    return isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image


def listed(files: Sequence[str]) -> str:
    """Count the files that a demo skips, and name the first five of them."""
    names = ", ".join(os.path.basename(file) for file in files[:5])
    more = f" and {len(files) - 5} more" if files[5:] else ""
    return f"{len(files)} other file{'s' * (len(files) != 1)}: {names}{more}"
