"""Read annotation files as UTF-8, and only once for both the rules and Detectron2.

pycocotools opens a file in the default encoding of the process. Most of the time that a large file
takes goes into parsing it and into Python's garbage collector, which finds no garbage.
"""

import contextlib
import dataclasses
import gc
import json
import os
import statistics
from collections.abc import Iterator
from typing import Any

import msgspec
import pycocotools.coco
from detectron2.evaluation import coco_evaluation

from ..utils.errors import UserError
from ..utils.modules import overridden


@dataclasses.dataclass
class _Sharing:
    """What :func:`shared_reading` passes on: parsed files, and whether their masks are wanted."""

    masks: bool
    parsed: dict[str, Any] = dataclasses.field(default_factory=dict)


_sharing: _Sharing | None = None


def read_annotations(path: str) -> tuple[Any, str | None]:
    """Read a JSON file of any content.

    Returns:
        its content and None, or None and a sentence that says why it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = parse(file.read())
    except json.JSONDecodeError as error:
        if error.doc.startswith("\ufeff"):
            return None, f"{path} begins with a byte-order mark: write it as UTF-8 without BOM"
        where = f"line {error.lineno} column {error.colno}"
        return None, f"{path} is not valid JSON at {where} ({error.msg}): write the file again"
    except RecursionError:
        return None, f"{path} is nested too deeply for an annotation file: write it again"
    except UnicodeDecodeError as error:
        return None, f"annotation file {path} cannot be read ({error}): write it as UTF-8"
    except (OSError, ValueError, MemoryError) as error:  # such as a number of 5,000 digits
        reason = str(error).partition(";")[0] or "too large"  # Python's advice follows the ";"
        return None, f"annotation file {path} cannot be read ({reason}): write the file again"
    if _sharing is not None:
        _sharing.parsed[path] = content
    return content, None


def parse(data: bytes) -> Any:
    """Parse UTF-8 JSON with the results and errors of :func:`json.loads`."""
    with without_gc():
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return msgspec.json.decode(data)
        # Slower, but takes NaN and lone surrogates, too, and says what is wrong and where.
        return json.loads(data.decode("utf-8"))


class AnnotationFile(pycocotools.coco.COCO):
    """pycocotools' index of an annotation file, read as UTF-8 whatever the default encoding is."""

    def __init__(self, annotation_file: str | None = None):
        """See :class:`pycocotools.coco.COCO`; prints nothing.

        Raises:
            FileNotFoundError: if the file does not exist.
            UserError: if the file cannot be read.
        """
        super().__init__()
        if annotation_file is None:
            return
        if not os.path.isfile(annotation_file):
            raise FileNotFoundError(annotation_file)
        shared = _sharing or _Sharing(masks=True)
        if annotation_file not in shared.parsed:
            shared.parsed[annotation_file], sentence = read_annotations(annotation_file)
            if sentence is not None:
                raise UserError(sentence)
        self.dataset = shared.parsed.pop(annotation_file)  # Detectron2 changes it
        if not shared.masks:
            for annotation in self.dataset.get("annotations", ()):
                annotation.pop("segmentation", None)
        _add_num_keypoints(self.dataset)
        number_from_one(self.dataset)
        with contextlib.redirect_stdout(None), without_gc():
            self.createIndex()


def _add_num_keypoints(content: Any) -> None:
    """If a file has keypoints, give each object some, zeros where it has none, and their count:
    training and COCO's evaluation of keypoints stop without them."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    annotations = [a for a in annotations or () if isinstance(a, dict)]
    given = [points for a in annotations if isinstance(points := a.get("keypoints"), list)]
    if any(given):
        none = [0] * statistics.mode(filter(None, map(len, given)))
        for annotation in annotations:
            points = annotation["keypoints"] = annotation.get("keypoints") or none[:]
            flags = points[2::3] if isinstance(points, list) else ()
            annotation.setdefault("num_keypoints", sum(flag in (1, 2) for flag in flags))


def number_from_one(content: Any) -> None:
    """Add 1 to the ids of annotations that count from 0, as labelme, Label Studio, MakeSense and
    Roboflow write them: COCO's evaluation counts an object of id 0 as missed if it is found."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    annotations = [a for a in annotations or () if isinstance(a, dict)]
    numbers = [annotation.get("id") for annotation in annotations]
    if 0 in numbers and all(type(number) in (int, float) for number in numbers):
        for annotation in annotations:
            annotation["id"] += 1


@contextlib.contextmanager
def shared_reading(masks: bool = True) -> Iterator[None]:
    """Let Detectron2 reuse the files that :func:`read_annotations` parses within this context, and
    read all others by it.

    Args:
        masks: False removes the objects' masks: this saves memory, and Detectron2 then keeps
            objects whose mask is invalid.
    """
    global _sharing
    before, _sharing = _sharing, _Sharing(masks)
    # Detectron2 makes a COCO of a path through the name COCO in these two modules.
    of_file, of_evaluation = (
        overridden(module, COCO=AnnotationFile) for module in (pycocotools.coco, coco_evaluation)
    )
    try:
        with of_file, of_evaluation, without_gc():
            yield
    finally:
        _sharing = before


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Turn off the garbage collector while millions of objects are made that form no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
