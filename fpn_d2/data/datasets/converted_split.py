"""What the reader of a layout returns: the splits of a folder, in the terms of COCO's format."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.structures.masks import polygon_area

IMAGE_ENDINGS = (
    *(".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)


@dataclasses.dataclass
class Split:
    """The images and objects of one split, collected file by file.

    Attributes:
        images, annotations: entries as in COCO's format; a file name is relative to the folder.
        faults: sentences about what makes the split unusable.
        findings: ``("error" or "warning", sentence)`` about what is left out.
        notes: sentences about how its labels are read.
    """

    images: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    annotations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    findings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add_image(self, file_name: str, width: int, height: int) -> None:
        """Add an image of this size in pixels; objects that are added next belong to it."""
        size = {"width": width, "height": height}
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, **size})

    def add_object(
        self,
        category: Any,
        box: Sequence[float],
        polygons: Sequence[Sequence[float]] = (),
        crowd: bool = False,
    ) -> None:
        """Add an object to the last image.

        Args:
            category: its ``category_id``.
            box: left, top, width and height in pixels.
            polygons: its mask, each polygon as x0 y0 x1 y1 ... in pixels; none for a box alone.
            crowd: whether it is neither trained on nor counted.
        """
        points = [np.reshape(polygon, (-1, 2)).T for polygon in polygons]
        area = sum(float(polygon_area(x, y)) for x, y in points) if points else box[2] * box[3]
        annotation = {
            "id": len(self.annotations) + 1,
            "image_id": len(self.images),
            "category_id": category,
            "bbox": list(box),
            "area": area,
            "iscrowd": int(crowd),
        }
        if points:
            annotation["segmentation"] = [list(polygon) for polygon in polygons]
        self.annotations.append(annotation)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a folder's conversion reads.

    Args:
        files: all files on which its result depends.
        read: reads them; returns the names of the classes, whose ``category_id`` count from 1, and
            the splits by their names. It may raise a :class:`UserError`.
    """

    files: list[str]
    read: Callable[[], tuple[list[str], dict[str, Split]]]


def is_image(path: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return path.lower().endswith(IMAGE_ENDINGS)


def all_files(folder: str) -> Iterator[str]:
    """Yield the paths of all files below a folder that are not hidden, sorted; follow links to
    folders that lie elsewhere."""
    seen = {os.path.realpath(folder)}
    inside = os.path.join(os.path.realpath(folder), "")
    for parent, folders, names in os.walk(folder, followlinks=True):
        yield from (os.path.join(parent, name) for name in sorted(names) if name[0] != ".")
        found, folders[:] = sorted(name for name in folders if name[0] != "."), []
        for path in (os.path.join(parent, name) for name in found):
            target = os.path.realpath(path)
            # A link may lead back, or to a folder that is read anyway.
            if target not in seen and not (os.path.islink(path) and target.startswith(inside)):
                seen.add(target)
                folders.append(os.path.basename(path))


def some(paths: Sequence[str]) -> str:
    """The first of some paths, and how many there are, in brackets."""
    return f"(the first of {len(paths)} is {paths[0]})" if len(paths) > 1 else f"({paths[0]})"
