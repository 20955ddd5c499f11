"""Data sets in COCO's format: folders that are registered by their names, and the first images of
a set as another one."""

import glob
import json
import logging
import os
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

from ...utils.errors import UserError
from ...utils.files import replace_file
from .shapes import BUILTIN_NAME

logger = logging.getLogger(__name__)


def datasets_root() -> str:
    """The folder of all data sets as for Detectron2: ``$DETECTRON2_DATASETS``, or ``datasets`` in
    the current folder."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def missing_remedy() -> str:
    """The remedy for a missing file of a data set, as the end of a sentence."""
    return (
        "put it there, or set DETECTRON2_DATASETS to the folder of your data sets (now "
        f"{datasets_root()}) and start again"
    )


def register_coco_folders(root: str) -> list[str]:
    """Register every ``<root>/<name>/`` that has images and COCO annotations.

    ``<root>/<name>/annotations/instances_<split>.json`` becomes ``<name>_<split>``, with its
    images in ``<root>/<name>/images/``. A name that is registered already is left alone, so
    Detectron2's own names win and calling this twice is harmless. The folder ``shapes`` belongs to
    the built-in data set, and hidden folders are ignored.

    Args:
        root: the folder of all data sets; it need not exist.

    Returns:
        the names that this call registered, sorted by folder.
    """
    registered = []
    for folder in sorted(glob.glob(os.path.join(glob.escape(root), "*", ""))):
        name = os.path.basename(os.path.dirname(folder))
        image_root = os.path.join(root, name, "images")
        if name == BUILTIN_NAME or not os.path.isdir(image_root):
            continue
        annotations = glob.escape(os.path.join(root, name, "annotations"))
        for path in sorted(glob.glob(os.path.join(annotations, "instances_?*.json"))):
            split = os.path.basename(path)[len("instances_") : -len(".json")]
            if _is_free(f"{name}_{split}", path):
                register_coco_instances(f"{name}_{split}", {}, path, image_root)
                registered.append(f"{name}_{split}")
    return registered


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


def register_first_images(name: str, of: str, count: int) -> None:
    """Register the first images by ascending id of one data set in COCO's format as another.

    Its first use writes its annotation file beside that of the whole set. A name that is registered
    already is left alone.

    Args:
        name: the new data set.
        of: the whole set, which is registered.
        count: the number of images.
    """
    if name in DatasetCatalog or of not in DatasetCatalog:
        return
    whole = MetadataCatalog.get(of)
    stem, ending = os.path.splitext(whole.json_file)
    json_file = f"{stem}_first{count}{ending}"

    def load() -> list[dict[str, Any]]:
        if not os.path.isfile(json_file):
            _write_subset(whole.json_file, json_file, count, name)
        return load_coco_json(json_file, whole.image_root, name)

    DatasetCatalog.register(name, load)
    own = "name", "json_file", "thing_dataset_id_to_contiguous_id"
    shared = {key: value for key, value in whole.as_dict().items() if key not in own}
    MetadataCatalog.get(name).set(**shared, json_file=json_file)


def _write_subset(source: str, target: str, count: int, name: str) -> None:
    try:
        with open(source, encoding="utf-8") as file:
            content = json.load(file)
        content["images"] = sorted(content["images"], key=lambda image: image["id"])[:count]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        with replace_file(target, encoding="utf-8") as file:
            json.dump(content, file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data set {name} cannot be made of {source} ({error!r}): put COCO's annotation file "
            "there, in a folder that can be written, or set DETECTRON2_DATASETS"
        ) from error
