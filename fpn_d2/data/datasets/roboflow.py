"""Folders in Roboflow's COCO layout: ``<split>/_annotations.coco.json`` beside the split's images.

Before the classes Roboflow puts a category 0, which is their supercategory and has no objects.
"""

import glob
import json
import os
from typing import Any

from ..coco_json import number_from_one
from .converted_split import Source, Split

_FILE = "_annotations.coco.json"
_ID = int | float | str  # 1.0 is 1, as in Python


def split_names(folder: str) -> list[str]:
    """The splits of a folder, train first; empty where it has another layout."""
    files = glob.glob(os.path.join(glob.escape(folder), "*", _FILE))
    names = sorted(os.path.basename(os.path.dirname(file)) for file in files)
    return sorted(names, key=lambda name: name != "train")


def open_source(folder: str) -> Source:
    """See :class:`Source`."""
    paths = {name: os.path.join(folder, name, _FILE) for name in split_names(folder)}

    def read() -> tuple[list[str], dict[str, Split]]:
        contents, splits = {}, {name: Split() for name in paths}
        for name, path in paths.items():
            try:
                contents[name] = _read(path)
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                splits[name].faults.append(
                    f"{path} is not in COCO's format ({error!r}): write it again, with the lists "
                    "images, annotations and categories"
                )
        found = (a.get("category_id") for c in contents.values() for a in c["annotations"])
        used = {number for number in found if isinstance(number, _ID)}
        classes: dict[str, int] = {}
        for name, content in contents.items():
            ids = {}
            for category in _real_categories(content["categories"], used):
                ids[category["id"]] = classes.setdefault(category["name"], len(classes) + 1)
            _fill(splits[name], name, content, ids)
        return list(classes), splits

    return Source(list(paths.values()), read)


def _read(path: str) -> dict[str, Any]:
    """Read the three lists of a file, the categories by ascending id; an error if it lacks them."""
    with open(path, encoding="utf-8-sig") as file:
        content = json.load(file)
    lists = {key: list(map(dict, content[key])) for key in ("images", "annotations", "categories")}
    lists["categories"].sort(key=lambda category: category["id"])
    for category in lists["categories"]:
        if not isinstance(category["name"], str) or not isinstance(category["id"], _ID):
            raise ValueError("a category has no name or id")
    return lists


def _real_categories(categories: list[dict[str, Any]], used: set[Any]) -> list[dict[str, Any]]:
    """Leave out the first category if it is the supercategory of all others and has no object."""
    first, others = categories[:1], categories[1:]
    above = [category.get("supercategory") for category in others]
    is_dummy = first and above == [first[0]["name"]] * len(above) and first[0]["id"] not in used
    return others if is_dummy and others else categories


def _fill(split: Split, name: str, content: dict[str, Any], ids: dict[Any, int]) -> None:
    """Take over a file's images and annotations; their faults stay and are found later."""
    for image in content["images"]:
        if isinstance(image.get("file_name"), str):
            image["file_name"] = os.path.join(name, image["file_name"])
    split.images = content["images"]
    number_from_one(content)  # for Detectron2's own evaluator, too
    for annotation in content["annotations"]:
        found = annotation.get("category_id")
        known = isinstance(found, _ID) and found in ids
        # Left as its file's number, it might be the number of another class here.
        annotation["category_id"] = ids[found] if known else f"{found} in {_FILE}"
    split.annotations = content["annotations"]
