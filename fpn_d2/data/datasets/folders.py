"""Data sets that need no code: folders registered by their names, and the first images of a data
set registered as another one."""

import glob
import itertools
import json
import logging
import os
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

from ...utils.errors import UserError
from ...utils.files import replace_file
from .converted_folders import (
    annotation_file,
    coco_files,
    layout_and_splits,
    make_current,
    notes_of,
    splits_by_layout,
)
from .shapes import BUILTIN_NAME

logger = logging.getLogger(__name__)


def datasets_root() -> str:
    """The folder of all data sets, as in Detectron2: ``$DETECTRON2_DATASETS``, or ``datasets`` in
    the current folder."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def missing_remedy() -> str:
    """The remedy for a missing file of a data set, as the end of a sentence."""
    return (
        "put it there, or set DETECTRON2_DATASETS to the folder of your data sets (now "
        f"{os.path.abspath(datasets_root())}) and start again"
    )


def register_folders(root: str) -> list[str]:
    """Register every ``<root>/<name>/`` in the layout of COCO, YOLO, Pascal VOC or Roboflow.

    Each split becomes ``<name>_<split>``; Roboflow's split ``valid`` also becomes ``<name>_val``.
    A name that is registered already is left alone, so Detectron2's own names win and calling this
    twice is harmless. The folder ``shapes`` belongs to the built-in data set, and hidden folders
    are ignored. Of a folder that holds VOC's own (``VOCdevkit/VOC2007/``), these are registered.
    Folders are converted on first use; then a folder in two layouts at once is refused.

    Args:
        root: the folder of all data sets; it need not exist.

    Returns:
        the names that this call registered: first those of COCO's layout, then those of other
        layouts, last those of folders within a folder.
    """
    layouts = {folder: splits_by_layout(folder) for folder in _folders(root)}
    nested = {
        within: splits_by_layout(within)
        for folder, found in layouts.items()
        for within in (() if found else _folders(folder))
        if os.path.isdir(os.path.join(within, "ImageSets"))
    }
    # If two folders make the same name, the first in this order gets it.
    ordered = sorted(layouts.items(), key=lambda item: list(item[1]) != ["COCO"])
    ordered += nested.items()
    return [name for folder, found in ordered for name in _register_folder(folder, found)]


def _register_folder(folder: str, found: dict[str, list[str]]) -> list[str]:
    """Register the splits of a folder, by layout."""
    registered = []
    files = coco_files(folder) if list(found) == ["COCO"] else {}
    for split in dict.fromkeys(itertools.chain(*found.values())):
        path = files.get(split) or annotation_file(folder, split)
        for word in ("valid", "val") if split == "valid" and not files else (split,):
            name = f"{os.path.basename(folder)}_{word}"
            if not _is_free(name, path):
                continue
            if files:
                register_coco_instances(name, {}, path, os.path.join(folder, "images"))
            else:
                _register_converted(name, folder, split)
            registered.append(name)
    return registered


def _folders(root: str) -> list[str]:
    found = sorted(glob.glob(os.path.join(glob.escape(root), "*", "")))
    return [os.path.dirname(path) for path in found if os.path.basename(path[:-1]) != BUILTIN_NAME]


def _register_converted(name: str, folder: str, split: str) -> None:
    path = annotation_file(folder, split)

    def load() -> list[dict[str, Any]]:
        make_current(folder, split)
        for note in notes_of(path):
            logger.warning("data set %s: %s", name, note)
        return load_coco_json(path, folder, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=path, image_root=folder, evaluator_type="coco", converted=(folder, split)
    )


def make_ready(name: str) -> None:
    """Convert the folder of a registered data set if its layout is not COCO's and it has changed;
    do nothing for other data sets.

    Raises:
        UserError: if it cannot be used, see :func:`make_current`.
    """
    converted = MetadataCatalog.get(name).get("converted")
    if converted is not None:
        make_current(*converted)


def folder_files(folder: str, convert: str = "") -> dict[str, tuple[str, str]]:
    """Find the annotation file and the image folder of each split of a folder in any layout.

    Args:
        folder: its path.
        convert: the split to convert, if the layout is not COCO's; the files of other splits may
            not exist yet.

    Raises:
        UserError: if the folder is in no layout, or in two, or cannot be converted.
    """
    layout, splits = layout_and_splits(folder)
    if layout == "COCO":
        files = coco_files(folder)
        return {split: (path, os.path.join(folder, "images")) for split, path in files.items()}
    if convert:
        make_current(folder, convert)
    return {split: (annotation_file(folder, split), folder) for split in splits}


def missing_split(name: str) -> str | None:
    """Say why a name that begins with a folder's is no data set, and the remedy, as the end of a
    sentence; None if no folder of the data sets has such a name."""
    ends = [i for i, letter in enumerate(name) if letter == "_"]
    folders = (os.path.join(datasets_root(), name[:end]) for end in reversed(ends))
    folder = next(filter(os.path.isdir, folders), None)
    if folder is None:
        return None
    try:
        _, splits = layout_and_splits(folder)
    except UserError as error:
        return str(error)
    return f"{folder} has {', '.join(splits)}: choose among <name>_<split> of these"


def _is_free(name: str, path: str) -> bool:
    if name not in DatasetCatalog:
        return True
    if getattr(MetadataCatalog.get(name), "json_file", None) != path:
        logger.warning(
            "%s is not registered: there is another data set named %s; rename its folder or file",
            path,
            name,
        )
    return False


def register_first_images(name: str, of: str, count: int, start: int = 0) -> None:
    """Register the first images, by ascending id, of a data set in COCO's format as another one.

    Its first use writes its annotation file beside that of the whole set. A name that is registered
    already is left alone.

    Args:
        name: the name of the new data set.
        of: the name of the whole set; nothing happens if it is not registered.
        count: the number of images.
        start: the number of images to skip before them.
    """
    if name in DatasetCatalog or of not in DatasetCatalog:
        return
    whole = MetadataCatalog.get(of)
    stem, ending = os.path.splitext(whole.json_file)
    part = f"images{start + 1}to{start + count}" if start else f"first{count}"
    json_file = f"{stem}_{part}{ending}"

    def load() -> list[dict[str, Any]]:
        if not os.path.isfile(json_file):
            _write_subset(whole.json_file, json_file, slice(start, start + count), name)
        return load_coco_json(json_file, whole.image_root, name)

    DatasetCatalog.register(name, load)
    own = "name", "json_file", "thing_dataset_id_to_contiguous_id"
    shared = {key: value for key, value in whole.as_dict().items() if key not in own}
    MetadataCatalog.get(name).set(**shared, json_file=json_file, made_of=whole.json_file)


def check_source(name: str) -> None:
    """Refuse a data set that is yet to be made of another one's file if that is missing.

    Raises:
        UserError: naming that file.
    """
    metadata = MetadataCatalog.get(name)
    source, file = metadata.get("made_of"), metadata.get("json_file")
    if source and not (os.path.isfile(file) or os.path.isfile(source)):
        raise UserError(
            f"data set {name} is made of {source}, which is missing: {missing_remedy()}"
        )


def _write_subset(source: str, target: str, part: slice, name: str) -> None:
    try:
        with open(source, encoding="utf-8") as file:
            content = json.load(file)
        content["images"] = sorted(content["images"], key=lambda image: image["id"])[part]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        with replace_file(target, encoding="utf-8") as file:
            json.dump(content, file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data set {name} cannot be made of {source} ({error!r}): put COCO's annotation file "
            "there, in a folder that can be written, or set DETECTRON2_DATASETS"
        ) from error
