"""Folders in YOLO's layout: a ``data.yaml`` that names classes and splits, and a text file beside
each image's folder with a line for each object.

A line is a class number and shares of the image's width and height: ``x y w h`` of a box's centre
and sides, or ``x y`` of three or more corners of a polygon; an oriented box is a polygon of four.
For poses, which ``kpt_shape`` in data.yaml announces, only the boxes are read.
"""

import math
import os
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from ...utils.errors import UserError, reason_of
from ...utils.progress import told
from ..images import look_at, turned_size
from .converted_split import Source, Split, all_files, is_image, some

_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
_MAX_BYTES = 2**20  # of data.yaml
# How far rounding may take a share beyond 0 and 1.
_SLACK = 0.01
# What annotation programs leave beside label files.
_NO_LABELS = ("classes.txt", "labels.txt")


def split_names(folder: str) -> list[str]:
    """The splits that the data.yaml of a folder names; empty where there is none."""
    if not os.path.isfile(_data_file(folder)):
        return []
    try:
        return list(_split_entries(_read_data(folder)))
    except UserError:
        return ["train", "val", "test"]  # the error is raised when one of them is used


def open_source(folder: str) -> Source:
    """See :class:`Source`.

    Raises:
        UserError: if data.yaml cannot be used.
    """
    data = _read_data(folder)
    numbers, names = _classes(folder, data)
    points = data.get("kpt_shape")
    found, files = {}, [_data_file(folder)]
    for split, entries in _split_entries(data).items():
        found[split] = part = _find_images(folder, data, entries)
        files += [*part.lists, *part.strays, *part.labels, *part.labels.values()]

    def read() -> tuple[list[str], dict[str, Split]]:
        splits = {s: _read_split(folder, s, part, numbers, points) for s, part in found.items()}
        return names, splits

    return Source(files, read)


# --- data.yaml


class _NumbersAsWritten(yaml.SafeLoader):
    """Keeps a whole number as it is written: 010 is a name, of which YAML makes 8."""


_NumbersAsWritten.add_constructor("tag:yaml.org,2002:int", yaml.SafeLoader.construct_scalar)


def _data_file(folder: str) -> str:
    return os.path.join(folder, "data.yaml")


def _read_data(folder: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    path = _data_file(folder)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise UserError(f"{path} is larger than 1 MB, which no data.yaml is: write it again")
        data = yaml.load(text, loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, UserError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = reason_of(getattr(error, "problem", None) or error)
        raise UserError(f"{path}{where} is no readable YAML ({reason}): correct it") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} has no lines of the form key: value; write names and train there")
    return data


def _split_entries(data: dict[str, Any]) -> dict[str, list[Any]]:
    """The folders and files of each split that data.yaml names."""
    found = {}
    data = {str(key).lower(): entries for key, entries in data.items()}  # CVAT writes Train
    for key, split in _SPLITS.items():
        entries = data.get(key)
        if entries:
            found[split] = entries if isinstance(entries, list) else [entries]
    return found


def _classes(folder: str, data: dict[str, Any]) -> tuple[dict[int, int], list[str]]:
    """The ``category_id`` of each class number, and the names."""
    path, names = _data_file(folder), _read_data(folder, _NumbersAsWritten).get("names")
    if not isinstance(names, list | dict) or not names:
        raise UserError(f"{path} has no names: add the classes, such as names: [cat, dog]")
    pairs = list(names.items() if isinstance(names, dict) else enumerate(names))
    for number, name in pairs:
        if not isinstance(name, str):  # YAML reads yes as True, and 1.10 as 1.1
            shown = f"{path} names the class {str(number)[:30]} {reprlib.repr(name)}"
            raise UserError(f"{shown}, which is no text for YAML: put the name in quotes")
    try:
        by_number = {int(number): name for number, name in pairs}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} has names by {reprlib.repr(list(names))}: number them, such as 0: cat"
        ) from error
    if data.get("nc") not in (None, len(by_number)):
        raise UserError(
            f"{path} has nc: {reprlib.repr(data['nc'])} and {len(by_number)} names: correct one"
        )
    if not _split_entries(data):
        raise UserError(f"{path} names no images: add train: and val: with their folders")
    numbers = sorted(by_number)
    ids = {number: place for place, number in enumerate(numbers, start=1)}
    return ids, [by_number[number] for number in numbers]


# --- images and their labels


class _Found(NamedTuple):
    """The files of a split: each image's label file, which need not exist; label files without an
    image; the lists of images that were read; and the entries of data.yaml that do not exist."""

    labels: dict[str, str]
    strays: list[str]
    lists: list[str]
    missing: list[str]


def _find_images(folder: str, data: dict[str, Any], entries: list[Any]) -> _Found:
    bases = _bases(folder, data)
    images: dict[str, str] = {}
    label_folders, lists, missing = [], [], []
    for entry in map(str, entries):
        # Roboflow writes ../train/images for the folder train/images beside data.yaml.
        path = _first_existing(bases, entry) or _first_existing(bases, entry.removeprefix("../"))
        if path is None:
            missing.append(entry)
        elif os.path.isdir(path):
            images |= {image: _label_file(image) for image in all_files(path) if is_image(image)}
            label_folders.append(os.path.dirname(_label_file(os.path.join(path, "any"))))
        else:
            lists.append(path)
            for line in filter(None, _lines(path)):
                if "\0" in line:
                    raise UserError(f"{path} is not in UTF-8: save it as UTF-8")
                # CVAT writes data/images/a.jpg for images/a.jpg beside data.yaml.
                names, beside = (line, line.removeprefix("data/")), [os.path.dirname(path), *bases]
                image = next(filter(None, (_first_existing(beside, name) for name in names)), None)
                # A missing image is named when the images are read.
                image = image or os.path.normpath(os.path.join(os.path.dirname(path), line))
                images[image] = _label_file(image)
    known = set(images.values())
    labels = (label for parent in dict.fromkeys(label_folders) for label in all_files(parent))
    strays = [
        label
        for label in labels
        if label.lower().endswith(".txt") and label not in known and not label.endswith(_NO_LABELS)
    ]
    return _Found(dict(sorted(images.items())), strays, lists, missing)


def _bases(folder: str, data: dict[str, Any]) -> list[str]:
    """The folders to which paths in data.yaml may be relative: its ``path``, from its own folder or
    from the folder of all data sets, and its own folder."""
    path = data.get("path")
    named = [os.path.join(base, str(path)) for base in (folder, os.path.dirname(folder)) if path]
    return [*named, folder]


def _first_existing(bases: list[str], path: str) -> str | None:
    joined = (os.path.join(base, path) for base in bases)
    found = next(filter(os.path.exists, joined), None)
    return None if found is None else _without_parents(found)


def _without_parents(path: str) -> str:
    """Follow each .. of a path as the system does: above a link is what is above its target.

    Other links stay, since the names of an image's folders lead to its labels.
    """
    place, *parts = Path(path).parts
    for part in parts:
        up = part == os.pardir
        place = os.path.dirname(os.path.realpath(place)) if up else os.path.join(place, part)
    return place


def _label_file(image: str) -> str:
    """Return labels/a.txt for images/a.jpg, and a.txt for any other a.jpg."""
    before, images, after = os.path.splitext(image)[0].rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{after}.txt" if images else f"{after}.txt"


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return list(map(str.strip, file))


def _read_split(
    folder: str, name: str, found: _Found, numbers: dict[int, int], points: Any
) -> Split:
    split, data_file, images = Split(), _data_file(folder), found.labels
    for entry in found.missing:
        split.faults.append(
            f"{data_file} names {entry} for {name}, which does not exist: correct it there"
        )
    unlabelled, poses = [], 0
    for image, label in told(f"reading {name}", images.items()):
        try:
            with Image.open(image) as opened:
                width, height = turned_size(opened)  # labels are shares of this size
        except Exception:  # depending on the format
            fault = look_at(image, header=True)[0] or "cannot be read"
            text = f"image {image} {fault}, and is left out: put a sound image there or remove it"
            split.findings.append(("error", text))
            continue
        inside = image.startswith(os.path.join(folder, ""))
        split.add_image(os.path.relpath(image, folder) if inside else image, width, height)
        if not os.path.isfile(label):
            unlabelled.append(image)
            continue
        for place, line in enumerate(_lines(label), start=1):
            parsed = _parse(line, numbers, points)
            if isinstance(parsed, str):
                split.faults.append(f"{label} line {place} {parsed}")
            elif parsed is not None:
                split.add_object(numbers[parsed[0]], *_in_pixels(parsed[1], width, height))
                poses += bool(points)
    if not images and not found.missing:
        split.faults.append(f"{data_file} names no image for {name}: put images into its folder")
    elif images and len(unlabelled) == len(images):
        split.faults.append(
            f"none of the {len(images)} images of {name} in {folder} has a label file; the first, "
            f"{unlabelled[0]}, needs {images[unlabelled[0]]}: put it there"
        )
    elif unlabelled:
        text = f"images without a label file count as images without objects {some(unlabelled)}: "
        split.findings.append(("warning", text + "add empty files if that is meant"))
    if found.strays:
        text = f"label files without an image are left out {some(found.strays)}: add the images"
        in_capitals = not all(stray.endswith(".txt") for stray in found.strays)
        text += ", or end the names in .txt" if in_capitals else ""
        split.findings.append(("warning", text))
    if poses:
        split.notes.append(f"the keypoints of {poses} objects are left out")
    return split


def _parse(line: str, numbers: dict[int, int], points: Any) -> tuple[int, list[float]] | str | None:
    """Read a line.

    Returns:
        the class number and, in shares, the four numbers of a box or the corners of a polygon; the
        fault as the end of a sentence; or None for an empty line.
    """
    words, shown = line.split(), reprlib.repr(line)
    if not words:
        return None
    try:
        number, *values = map(float, words)
    except ValueError:
        return f"is {shown}: write a class number and shares of the image"
    if number not in numbers:
        known = f"data.yaml names {min(numbers)} to {max(numbers)}"
        return f"has the class {words[0]}, and {known}: correct it, or add the class there"
    if points:
        is_shape = isinstance(points, list) and all(type(n) is int and n > 0 for n in points)
        expected = 4 + math.prod(points) if is_shape else 0
        if len(values) != expected:
            text = f"kpt_shape {points} makes {expected + 1}"
            return f"has {len(words)} numbers, and {text}: correct it"
        values = values[:4]
    elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
        text = "write class x y w h, or class and x y of three corners or more, and nothing else"
        return f"has {len(words)} numbers: {text}"
    # NaN is in no range.
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        return f"is {shown}, and its numbers are no shares of the image: give values from 0 to 1"
    if len(values) == 4 and min(values[2:]) < 0:
        return f"is {shown}, a box of a negative side: correct it"
    return int(number), values


def _in_pixels(
    values: list[float], width: int, height: int
) -> tuple[list[float], list[list[float]]]:
    """Turn the shares from :func:`_parse` into pixels: left, top, width, height; and polygons."""
    scaled = [value * (height if i % 2 else width) for i, value in enumerate(values)]
    if len(scaled) == 4:
        x, y, w, h = scaled
        return [x - w / 2, y - h / 2, w, h], []
    xs, ys = scaled[::2], scaled[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], [scaled]
