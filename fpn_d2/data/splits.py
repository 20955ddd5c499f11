"""What training and test sets say of each other: images that both have, classes that one lacks."""

import filecmp
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog

logger = logging.getLogger(__name__)

_MOST_COPIES = 100  # that are read to their ends, in another folder under the same name

Records = Sequence[dict[str, Any]]


def tell_splits(train: Records, tests: Mapping[str, Records]) -> None:
    """Log what makes an AP say something else than how a detector does on new images of its kind.

    Args:
        train: the images that are trained on, in Detectron2's format.
        tests: those of each data set of ``DATASETS.TEST``.
    """
    by_name: dict[str, list[str]] = {}
    for path in _paths(train):
        by_name.setdefault(os.path.basename(path), []).append(path)
    known = _classes(train)
    for name, records in tests.items():
        shared = _shared(_paths(records), by_name)
        if shared:
            logger.warning(
                "data set %s: at least %d of its %d images are trained on too (first %s), so its "
                "AP is not that of new images: take them out of one of the sets",
                *(name, len(shared), len(records), shared[0]),
            )
        unseen = sorted(_classes(records) - known)
        if unseen:
            names = MetadataCatalog.get(name).get("thing_classes", ())
            titles = [str(names[i]) if i < len(names) else f"class {i}" for i in unseen]
            logger.warning(
                "data set %s: no training image has an object of %s, so the AP of %s is 0 and "
                "lowers the mean: annotate some, or take out the class",
                *(name, ", ".join(titles), "this class" if len(titles) == 1 else "each of them"),
            )


def _paths(records: Records) -> list[str]:
    return [os.fspath(record["file_name"]) for record in records if "file_name" in record]


def _classes(records: Records) -> set[int]:
    """The classes of the objects, crowds left out."""
    return {
        annotation["category_id"]
        for record in records
        for annotation in record.get("annotations", ())
        if "category_id" in annotation and not annotation.get("iscrowd", 0)
    }


def _shared(paths: Sequence[str], by_name: Mapping[str, Sequence[str]]) -> list[str]:
    """The files that are, or are copies of, files of another set."""
    shared: list[str] = []
    for path in paths:
        others = by_name.get(os.path.basename(path), ())
        # Frames of many videos share their names, so that comparing all would take for ever.
        few = len(others) <= _MOST_COPIES > len(shared)
        copies_count = few and os.path.isfile(path)
        candidates = filter(os.path.isfile, others if copies_count else ())
        if path in others or any(filecmp.cmp(path, one, shallow=False) for one in candidates):
            shared.append(path)
    return shared
