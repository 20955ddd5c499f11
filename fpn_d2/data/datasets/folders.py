"""COCO-format folders under the folder of all data sets, registered by their names."""

import glob
import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ...utils.files import is_local
from .shapes import BUILTIN_NAME

__all__ = ["datasets_root", "is_local", "missing_remedy", "register_coco_folders"]

logger = logging.getLogger(__name__)


def datasets_root() -> str:
    """The folder of all data sets, as Detectron2 finds it.

    Returns:
        ``$DETECTRON2_DATASETS``, or ``datasets`` in the current folder.
    """
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def missing_remedy() -> str:
    """What to do about a file of a data set that is not there."""
    return (
        "put it there, or set DETECTRON2_DATASETS to the folder of your data sets (now "
        f"{datasets_root()}) and start again"
    )


def register_coco_folders(root: str) -> list[str]:
    """Register every ``<root>/<name>/`` that has images and COCO annotations.

    ``<root>/<name>/annotations/instances_<split>.json`` becomes ``<name>_<split>``, with its
    images in ``<root>/<name>/images/``. A name that is registered already is left alone, so
    Detectron2's own names win and calling this twice is harmless; ``shapes`` is the built-in
    data set's and hidden folders are nobody's.

    Args:
        root: the folder of all data sets; need not exist.

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
        prefix, suffix = "instances_", ".json"
        for path in sorted(glob.glob(os.path.join(annotations, f"{prefix}?*{suffix}"))):
            split = os.path.basename(path)[len(prefix) : -len(suffix)]
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
