"""The objects that Detectron2 leaves out of a data set, by name.

Its loader drops an object whose polygons all have fewer than three points, for models of boxes
too, and logs their number alone. The file is read once more only where it has.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .dataset_check import read_annotations

__all__ = ["naming_left_out"]

logger = logging.getLogger(__name__)

_WORDS = "instances without valid segmentation"


@contextlib.contextmanager
def naming_left_out(names: Sequence[str]) -> Iterator[None]:
    """Log which objects Detectron2 leaves out while it loads data sets.

    Args:
        names: the data sets that are loaded meanwhile.
    """
    dropped: list[logging.LogRecord] = []

    def note(record: logging.LogRecord) -> bool:
        if _WORDS not in record.getMessage():
            return True
        dropped.append(record)
        return False

    loader = logging.getLogger(load_coco_json.__module__)
    loader.addFilter(note)
    try:
        yield
    finally:
        loader.removeFilter(note)
    if dropped:
        for name in names:
            _name(name)


def _name(name: str) -> None:
    path = getattr(MetadataCatalog.get(name), "json_file", None)
    content = read_annotations(path)[0] if path is not None else None
    if content is None:
        return
    lines = [a for a in content["annotations"] if _is_left_out(a.get("segmentation"))]
    if lines:
        files = {image["id"]: image["file_name"] for image in content["images"]}
        logger.warning(
            "%d objects of %s are left out, as their polygons have fewer than three points; the "
            "first is annotation %s of image %s (%s); tools/check_dataset.py lists all",
            *(len(lines), name, lines[0].get("id"), files.get(lines[0]["image_id"]), path),
        )


def _is_left_out(segmentation: object) -> bool:
    if not isinstance(segmentation, list) or not segmentation:
        return False
    return not any(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in segmentation)
