"""Why Detectron2 could not load a data set, in one sentence.

Detectron2 finds most faults of an annotation file itself, but says so by a KeyError or a bare
assertion. So nothing here runs before its loader has failed: a sound file of COCO's size is not
parsed twice.
"""

import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog

from .annotation_faults import ERROR, annotation_findings
from .dataset_check import read_annotations
from .datasets.folders import is_local, missing_remedy
from .mask_faults import mask_fault
from .proposals import explain_proposals

__all__ = ["explain_failure"]


def explain_failure(
    names: Sequence[str],
    proposal_files: Sequence[str] | None,
) -> str | None:
    """Find what a user can mend.

    Args:
        names: the data sets that were to be loaded.
        proposal_files: their proposal files, if any.

    Returns:
        one sentence with the remedy, or None where the fault is not found.
    """
    contents = []
    for name in names:
        path = getattr(MetadataCatalog.get(name), "json_file", None)
        if path is None or not is_local(path):
            return None
        content, sentence = _read(name, path)
        sentence = sentence or _explain_content(path, content)
        if sentence:
            return sentence
        contents.append(content)
    try:
        sentence = _explain_together(names, proposal_files or (), contents)
    except (TypeError, ValueError, AttributeError, KeyError):
        sentence = None  # values of a kind that it does not expect
    return sentence or _first_error(contents, names)


def _explain_together(
    names: Sequence[str], proposal_files: Sequence[str], contents: Sequence[dict[str, Any]]
) -> str | None:
    """What shows in all files and their proposals together."""
    sentence = _explain_classes(names, contents)
    if sentence:
        return sentence
    for name, path, content in zip(names, proposal_files, contents, strict=False):
        sentence = explain_proposals(name, path, content["images"])
        if sentence:
            return sentence
    if all(a.get("iscrowd", 0) for content in contents for a in content.get("annotations", ())):
        return (
            f"no image of {', '.join(names)} has an object in its file's list named annotations "
            "(crowds do not count): annotate some, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS "
            "False to train on the background alone"
        )
    return None


def _first_error(contents: Sequence[Any], names: Sequence[str]) -> str | None:
    """What the check of a whole data set finds first of what makes a run impossible."""
    for name, content in zip(names, contents, strict=True):
        for finding in annotation_findings(content):
            if finding.severity == ERROR:
                image = f" (image {finding.image})" if finding.image else ""
                return f"{MetadataCatalog.get(name).json_file}{image}: {finding.sentence}"
    return None


def _read(name: str, path: str) -> tuple[Any, str | None]:
    """An annotation file's content, or why there is none."""
    if not os.path.isfile(path):
        return None, f"annotation file {path} of data set {name} does not exist: {missing_remedy()}"
    return read_annotations(path)


def _explain_content(path: str, content: Any) -> str | None:
    """What COCO's format asks for and the file does not have."""
    if not isinstance(content, dict):
        return f"{path} is not in COCO format: give it an object with images, ..."
    for key, needed in _NEEDED.items():
        # Files of COCO's test images have no annotations.
        entries = content.get(key, [] if key == "annotations" else None)
        if not isinstance(entries, list):
            return f"{path} is not in COCO format: give it a list named {key}"
        if not entries and key != "annotations":
            return f"{path} has no {key}: add some, or take the data set out of DATASETS"
        for number, entry in enumerate(entries):
            lacking = [k for k in needed if not isinstance(entry, dict) or k not in entry]
            if lacking:
                return f"{path}: entry {number} of {key} has no {lacking[0]}: add it"
    try:
        return _explain_ids(path, content)
    except (TypeError, ValueError, AttributeError, KeyError):
        return None  # values of a kind that it does not expect


_NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id"),
}


def _explain_ids(path: str, content: dict[str, Any]) -> str | None:
    categories = {category["id"] for category in content["categories"]}
    seen = set()
    for annotation in content.get("annotations", ()):
        which = f"{path}: annotation {annotation['id']} of image {annotation['image_id']}"
        if annotation["category_id"] not in categories:
            return f"{which} has category_id {annotation['category_id']}, not in categories: add it"
        # Detectron2 knows that COCO's own minival files repeat ids, and lets them.
        if annotation["id"] in seen and "minival" not in path:
            return f"{which} repeats the id of another annotation: number them anew"
        if annotation.get("ignore", 0):
            return f"{which} has 'ignore', which Detectron2 does not take: use 'iscrowd'"
        if annotation.get("bbox") == []:
            return f"{which} has an empty bbox: give left, top, width and height in pixels"
        seen.add(annotation["id"])
    return _explain_masks(path, content)


def _explain_masks(path: str, content: dict[str, Any]) -> str | None:
    images = {image["id"]: image for image in content["images"]}
    for annotation in content.get("annotations", ()):
        image = images.get(annotation["image_id"])
        if image is None or not annotation.get("segmentation"):
            continue
        fault = mask_fault(annotation["segmentation"], image["height"], image["width"])
        if fault:
            return (
                f"{path}: annotation {annotation['id']} of image {image['file_name']} has a broken "
                f"mask (its segmentation {fault}): correct it"
            )
    return None


def _explain_classes(names: Sequence[str], contents: Sequence[dict[str, Any]]) -> str | None:
    """Class lists that differ from each other or from the one that the name is registered with."""
    first = None
    for name, content in zip(names, contents, strict=True):
        categories = sorted(content["categories"], key=lambda category: category["id"])
        classes = [category["name"] for category in categories]
        registered = getattr(MetadataCatalog.get(name), "thing_classes", classes)
        first = first or (name, classes)
        for other, known in (first, (f"Detectron2's list for {name}", registered)):
            if list(known) != classes:
                return (
                    f"the categories of data set {name} ({len(classes)}) are not those of {other} "
                    f"({len(known)}): give both the same names in the same order of ids"
                )
    return None
