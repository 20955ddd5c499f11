"""Read files of fixed proposals (Sec. 4.2) safely, and say what is wrong with one.

They have Detectron2's form, a pickled ``{ids, boxes, objectness_logits, bbox_mode}``, which its
COCOEvaluator writes for an RPN and :func:`detectron2.data.build.load_proposals_into_dataset` reads.
"""

import os
from collections.abc import Sequence
from reprlib import repr as _short
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..checkpoint.safe_load import load_arrays
from ..utils.errors import UserError, reason_of
from ..utils.files import is_local
from .validation import judged_file

_KEYS = ("ids", "boxes", "objectness_logits")
_FIRST_NAMES = {"indexes": "ids", "scores": "objectness_logits"}  # in the first Detectron's files


def read_proposals(path: str) -> dict[str, Any]:
    """Read a proposal file, given as a path or a URL, without running anything in it.

    Returns:
        ``{ids, boxes, objectness_logits, bbox_mode}``; the boxes of an image are an (R, 4) array
        in pixels, its logits an (R,) array.

    Raises:
        UserError: if it cannot be had, is empty or has another form, or its boxes do not fit its
            ``bbox_mode`` (without one: left, top, right and bottom).
    """
    path = _local(path)
    remedy = "write it again by evaluating an RPN on the data set"
    content = load_arrays(path, "proposal file", remedy)
    if isinstance(content, dict):
        content = {_FIRST_NAMES.get(key, key): value for key, value in content.items()}
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"proposal file {path} has no {' and no '.join(missing)}; {remedy}")
    if len({len(content[key]) for key in _KEYS}) > 1:
        raise UserError(f"proposal file {path} has lists of different lengths; {remedy}")
    for pair in zip(content["boxes"], content["objectness_logits"], strict=True):
        if not all(isinstance(x, np.ndarray) for x in pair) or pair[1].shape != pair[0].shape[:1]:
            text = "does not give every image an array of boxes and one of as many logits"
            raise UserError(f"proposal file {path} {text}; {remedy}")
    mode = content.get("bbox_mode", BoxMode.XYXY_ABS)
    if not isinstance(mode, int | np.integer) or mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise UserError(
            f"proposal file {path} has the bbox_mode {_short(mode)}: give BoxMode.XYXY_ABS (0) for "
            "left, top, right and bottom or BoxMode.XYWH_ABS (1) for left, top, width and height"
        )
    mode = BoxMode(mode)
    for boxes in map(np.asarray, content["boxes"]):
        if not boxes.size:
            continue
        if boxes.shape[1:] != (4,) or boxes.dtype.kind not in "fiu":
            raise UserError(
                f"proposal file {path} has boxes of shape {boxes.shape} and type {boxes.dtype}, "
                f"not (R, 4) numbers; {remedy}"
            )
        if (BoxMode.convert(boxes.astype(float), mode, BoxMode.XYWH_ABS)[:, 2:] < 0).any():
            raise UserError(
                f"proposal file {path} has boxes of negative width or height if bbox_mode is "
                f"{mode.name}, which it {'says' if 'bbox_mode' in content else 'does not say'}: "
                "give the file the bbox_mode of its boxes, BoxMode.XYWH_ABS for left, top, width "
                "and height or BoxMode.XYXY_ABS for left, top, right and bottom"
            )
    return {**content, "bbox_mode": mode}


def _local(path: str) -> str:
    """Return a proposal file's local path; a URL is downloaded to where Detectron2 will look."""
    if is_local(path):
        return path
    try:
        return PathManager.get_local_path(path)
    except Exception as error:  # depending on the protocol
        reason = reason_of(error)
        raise UserError(
            f"proposal file {path} cannot be had ({reason}): download it, and name the file"
        ) from error


def explain_missing(
    names: Sequence[str], paths: Sequence[str], ids: Sequence[Sequence[Any]]
) -> str | None:
    """Say in one sentence why Detectron2 could not give every image its proposals; None if the
    files are not at fault.

    Args:
        names: the names of the data sets.
        paths: their proposal files, in the same order.
        ids: the image ids in each file.
    """
    for name, path, known in zip(names, paths, ids, strict=True):
        file = judged_file(name)
        images = file.images if file is not None else {}
        known = set(map(str, known))
        missing = [number for number in images if str(number) not in known]
        if missing:
            return (
                f"proposal file {path} has nothing for image {images[missing[0]]} (id {missing[0]})"
                f" of data set {name}, nor for {len(missing) - 1} more of its {len(images)} images:"
                f" evaluate the RPN on {name}, and list the files in the data sets' order"
            )
    return None


def check_proposals(names: Sequence[str], paths: Sequence[str], records: Sequence[dict]) -> None:
    """Check that proposals whose image ids fit also belong to these data sets.

    Args:
        names: the names of the data sets.
        paths: their proposal files, in the same order.
        records: their images in Detectron2's format, with proposals.

    Raises:
        UserError: naming the file, and the image or data set that its proposals do not fit.
    """
    for name, path in zip(names, paths, strict=True):
        folder = os.path.basename(os.path.dirname(path))
        # Evaluations write to inference/<data set>/.
        if folder != name and folder in DatasetCatalog:
            raise UserError(
                f"proposal file {path} is of data set {folder}, not of {name}: list the files in "
                "the data sets' order"
            )
    for record in records:
        boxes = np.asarray(record["proposal_boxes"])
        if not len(boxes):
            continue
        boxes = BoxMode.convert(boxes, record["proposal_bbox_mode"], BoxMode.XYXY_ABS)
        # COCO's sides are whole pixels, and a detector may round up.
        limits = np.array([record["width"], record["height"]] * 2) + 1
        if not (np.isfinite(boxes).all() and (boxes >= -1).all() and (boxes <= limits).all()):
            raise UserError(
                f"proposal file {', '.join(paths)} has boxes outside image {record['file_name']} "
                f"({record['width']} x {record['height']} pixels), so it is of other images than "
                f"{', '.join(names)}, or its bbox_mode is wrong: write it again by evaluating the "
                "RPN on them"
            )
