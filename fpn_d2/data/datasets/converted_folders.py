"""Folders in the layouts of YOLO, Pascal VOC and Roboflow, converted to COCO's format in a cache.

``$XDG_CACHE_HOME/fpn_d2/datasets/<folder>-<hash of its path>/instances_<split>.json`` is written
anew whenever one of its source files has changed. The user's folder is only read. Each file is
replaced as a whole, so any number of processes may convert at once.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from ...utils.errors import UserError
from ...utils.files import cache_folder, remove_partial_files, replace_file

if TYPE_CHECKING:
    from .converted_split import Source, Split

logger = logging.getLogger(__name__)

XML_ENDINGS = (".xml",)
_READERS = {"YOLO": "yolo", "Pascal VOC": "voc", "Roboflow's COCO": "roboflow"}
# So many entries of a folder tell what it holds; there may be a hundred thousand.
_LOOKED_AT = 1000
# Raise it when the result of converting the same files changes.
_VERSION = 7
# The key of ``info`` under which an annotation file holds what its conversion found.
FINDINGS = "conversion_findings"
_NOTES, _NOTES_WITHIN = '"notes": ', 4096  # characters from the file's beginning


def coco_files(folder: str) -> dict[str, str]:
    """The annotation files of a folder in COCO's layout, by split; empty for another layout."""
    if not os.path.isdir(os.path.join(folder, "images")):
        return {}
    annotations = glob.escape(os.path.join(folder, "annotations"))
    paths = sorted(glob.glob(os.path.join(annotations, "instances_?*.json")))
    return {os.path.basename(path)[len("instances_") : -len(".json")]: path for path in paths}


def splits_by_layout(folder: str) -> dict[str, list[str]]:
    """List a folder's splits in each layout that it may be in; open only a data.yaml and lists of
    images whose names leave open whether they are splits."""
    found = {"COCO": list(coco_files(folder))}
    found |= {layout: _reader(layout).split_names(folder) for layout in _candidates(folder)}
    return {layout: splits for layout, splits in found.items() if splits}


def _candidates(folder: str) -> list[str]:
    """List the layouts that a folder may be in; only a layout's reader knows whether it is."""
    below = os.path.join(glob.escape(folder), "*")
    signs = {
        "YOLO": os.path.isfile(os.path.join(folder, "data.yaml")),
        "Pascal VOC": any(
            holds(os.path.join(parent, place), XML_ENDINGS)
            for parent in (folder, *glob.glob(os.path.join(below, "")))
            for place in ("", "Annotations", "annotations")
        ),
        "Roboflow's COCO": glob.glob(os.path.join(below, "_annotations.coco.json")),
    }
    return [layout for layout, sign in signs.items() if sign]


def is_xml(path: str) -> bool:
    """Whether a file's name ends as an XML file's does."""
    return path.lower().endswith(XML_ENDINGS)


def holds(folder: str, endings: tuple[str, ...]) -> bool:
    """Whether a folder holds files with these endings: among its first entries, or beside one of
    them under the same name (b.xml beside b.jpg). False if there is no such folder.

    Some file systems list files in the order in which they came: all images, then all XML files.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _LOOKED_AT)]
    except OSError:
        return False
    stems = [os.path.splitext(name)[0] for name in names[:10]] if len(names) == _LOOKED_AT else []
    either = (*endings, *map(str.upper, endings))
    names += (s + e for s in stems for e in either if os.path.isfile(os.path.join(folder, s + e)))
    return any(name[0] != "." and name.lower().endswith(endings) for name in names)


def _reader(layout: str) -> ModuleType:
    """Import the module that reads a layout; training on COCO's or on shapes needs none."""
    return importlib.import_module(f".{_READERS[layout]}", __package__)


def layout_and_splits(folder: str) -> tuple[str, list[str]]:
    """The layout of a folder, and its splits.

    Raises:
        UserError: if it is in none, or in two at once.
    """
    found = splits_by_layout(folder)
    if not found:
        raise UserError(
            f"{folder} is in none of the layouts of data sets: give it images/ and annotations/"
            "instances_<split>.json (COCO), a data.yaml with train: (YOLO), Annotations/*.xml "
            "beside JPEGImages/ (Pascal VOC) or <split>/_annotations.coco.json (Roboflow's COCO)"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder} is in the layouts of {' and '.join(found)} at once, which may say different "
            "things: put all but one of them into folders of their own"
        )
    (only,) = found.items()
    return only


def annotation_file(folder: str, split: str) -> str:
    """Where the converted annotations of a folder's split are, or will be."""
    path = os.path.abspath(folder)
    name = f"{os.path.basename(path)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    return os.path.join(cache_folder(), "datasets", name, f"instances_{split}.json")


# The folders and splits that :func:`looking_once` has found current; None outside of it.
_found_current: set[tuple[str, str]] | None = None


@contextlib.contextmanager
def looking_once() -> Iterator[None]:
    """Within this context, look at all files of a folder only once, and not at each call of
    :func:`make_current`."""
    global _found_current
    before, _found_current = _found_current, set()
    try:
        yield
    finally:
        _found_current = before


def make_current(folder: str, split: str) -> None:
    """Convert a folder, unless its split's annotation file exists and is up to date.

    Raises:
        UserError: if the split cannot be used (the message is the first fault, ``sentences`` are
            all), or if the cache cannot be written.
    """
    folder = os.path.abspath(folder)
    seen = set() if _found_current is None else _found_current
    if (folder, split) not in seen:
        _convert(folder, split)
        seen.add((folder, split))


def _convert(folder: str, split: str) -> None:
    layout, _ = layout_and_splits(folder)
    source = _reader(layout).open_source(folder)
    fingerprint, target = _fingerprint(source), annotation_file(folder, split)
    if _is_made_of(target, fingerprint):
        return
    logger.info("Converting %s into %s", folder, os.path.dirname(target))
    classes, splits = source.read()
    for found in splits.values():
        if found.faults or not found.images:  # tell at once of images that are left out, too
            found.faults += [text for severity, text in found.findings if severity == "error"]
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        remove_partial_files(os.path.dirname(target))
        for name, found in splits.items():
            if not found.faults:
                _write(annotation_file(folder, name), fingerprint, classes, found)
    except OSError as error:
        raise UserError(
            f"the converted annotations of {folder} cannot be written ({error}): make room there, "
            "or set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    faults = splits[split].faults if split in splits else [f"{folder} has no {split} any more"]
    if faults:
        more = f" (and {len(faults) - 1} more: tools/check_dataset.py lists all)"
        raise UserError(faults[0] + (more if faults[1:] else ""), faults)


def notes_of(path: str) -> list[str]:
    """Return what a converted annotation file says about how its labels were read."""
    with open(path, encoding="utf-8") as file:
        text = file.read(_NOTES_WITHIN)
    return json.JSONDecoder().raw_decode(text, text.index(_NOTES) + len(_NOTES))[0]


def _fingerprint(source: Source) -> str:
    """A hash of the paths, sizes and times of all files that a conversion reads."""
    digest = hashlib.sha256(f"{_VERSION}".encode())
    for path in source.files:
        try:
            stat = os.stat(path)
            # Size and mtime may stay: an archive may give files one time, and classes be one digit.
            # A copied folder or other permissions change ctime, too, and all is converted again.
            state = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        except (OSError, ValueError):  # such as a label file, which an image need not have
            state = None
        digest.update(f"{path!r} {state}\n".encode())
    return digest.hexdigest()


def _is_made_of(path: str, fingerprint: str) -> bool:
    """Whether an annotation file begins with this fingerprint."""
    head = f'{{"info": {{"fingerprint": "{fingerprint}"'
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def _write(path: str, fingerprint: str, classes: list[str], split: Split) -> None:
    content = {
        "info": {"fingerprint": fingerprint, "notes": split.notes, FINDINGS: split.findings},
        "images": split.images,
        "annotations": split.annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }
    with replace_file(path, encoding="utf-8") as file:
        file.write(json.dumps(content))  # in C, where json.dump runs in Python
