"""Read what an evaluation found, image by image, and draw it beside the ground truth.

Shape shorthand: R results of an image with G objects. ``kind`` names the kind of results as
``results.json`` does: ``"mask_proposals"``, ``"bbox"`` (detections) or ``"box_proposals"``.
"""

import functools
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode
from pycocotools.coco import COCO

from ..data.images import read_sound_image
from ..data.proposals import read_proposals
from ..evaluation import load_ground_truth
from ..evaluation.saved_detections import read_detections
from ..utils.errors import UserError
from ..utils.files import explain_disk_errors, read_json, replace_file, unique_stems
from .drawing import class_color, draw_boxes, draw_masks
from .layout import picture_scale, side_by_side

logger = logging.getLogger(__name__)

_PROPOSALS = 100  # the best ones of each image: as many masks as an evaluation keeps
_KINDS = {
    "mask_proposals.json": "mask_proposals",
    "coco_instances_results.json": "bbox",
    "box_proposals.pkl": "box_proposals",
}

Results = Sequence[Mapping[str, Any]]  # of one image, in COCO's form


def draw_results(
    inference_dir: str, output_dir: str, *, num_images: int = 12, threshold: float = 0.5
) -> list[str]:
    """Draw results beside the ground truth, for the first images of an evaluated data set.

    Detections are drawn with their classes and scores. Proposals (boxes or masks) are too many for
    that: each object gets the one that fits it best, in the object's colour and with their IoU, and
    an object that no proposal overlaps with an IoU of at least 0.5 is labelled as missed.

    Args:
        inference_dir, threshold: see :func:`read_results`.
        output_dir: the folder for the pictures; created if missing.
        num_images: the number of images.

    Returns:
        the files written; an image that cannot be read is named in the log and left out.

    Raises:
        UserError: if the folder has no results or those of another data set, its data set is
            missing, no image can be read, or a picture cannot be written.
    """
    coco, image_root = load_ground_truth(os.path.basename(os.path.normpath(inference_dir)))
    kind, found = read_results(inference_dir, coco, threshold=threshold)
    writing = functools.partial(explain_disk_errors, output_dir, "give another --output")
    with writing():
        os.makedirs(output_dir, exist_ok=True)
    title = f"detections (score >= {threshold:g})"
    if kind != "bbox":
        regions = "masks" if kind == "mask_proposals" else "boxes"
        title = f"the best of the first {_PROPOSALS} {regions}, and its IoU"
    ids = sorted(coco.imgs)[:num_images]
    stems = unique_stems([coco.imgs[image_id]["file_name"] for image_id in ids], [".png"])
    files, faults = [], []
    for image_id, stem in zip(ids, stems, strict=True):
        try:
            image = read_sound_image(coco.imgs[image_id], image_root)
        except UserError as fault:
            logger.warning("not drawn: %s", fault)
            faults.append(fault)
            continue
        draw = _draw_detections if kind == "bbox" else _draw_best_proposals
        truth, drawn = draw(image, kind, coco, image_id, found[image_id])
        files.append(os.path.join(output_dir, f"{stem}.png"))
        picture = side_by_side({"ground truth": truth, title: drawn})
        with writing(), replace_file(files[-1], "wb") as file:
            picture.save(file, format="PNG")
    if faults and not files:
        raise faults[0]
    return files


def has_results(inference_dir: str) -> bool:
    """Return whether ``<OUTPUT_DIR>/inference/<data set>`` has a file for :func:`read_results`."""
    return bool(_results_file(inference_dir))


def _results_file(inference_dir: str) -> str:
    paths = (os.path.join(inference_dir, name) for name in _KINDS)
    return next(filter(os.path.isfile, paths), "")


def read_results(
    inference_dir: str, truth: COCO, *, threshold: float = 0.5
) -> tuple[str, Mapping[int, list[dict[str, Any]]]]:
    """Read what an evaluation found on each image.

    Args:
        inference_dir: ``<OUTPUT_DIR>/inference/<data set>``, as an evaluation left it.
        truth: the annotations of the data set.
        threshold: the least score of a detection.

    Returns:
        the kind, and for each image id the R results in COCO's form: boxes have a ``bbox``, as x,
        y, width and height in pixels; masks have a ``segmentation``, as an RLE; detections have a
        ``category_id`` and a ``score``. Only the best 100 proposals of an image are kept. An image
        without results has an empty list.

    Raises:
        UserError: if the folder has no results, or those of another data set.
    """
    path = _results_file(inference_dir)
    if not path:
        raise UserError(
            f"{inference_dir} holds neither {' nor '.join(_KINDS)}; evaluate the model first, with "
            "train_net.py --eval-only"
        )
    kind = _KINDS[os.path.basename(path)]
    found = defaultdict(list)
    if kind == "box_proposals":
        content = read_proposals(path)
        mode = BoxMode(content["bbox_mode"])
        for image_id, own in zip(content["ids"], content["boxes"], strict=True):
            own = np.asarray(own, dtype=np.float64).reshape(-1, 4)[:_PROPOSALS]
            own = BoxMode.convert(own, mode, BoxMode.XYWH_ABS).tolist()
            found[image_id] = [{"image_id": image_id, "bbox": box} for box in own]
    else:
        for result in read_detections(path, truth) if kind == "bbox" else read_json(path):
            own = found[result["image_id"]]
            if result["score"] >= threshold if kind == "bbox" else len(own) < _PROPOSALS:
                own.append(result)
    if unknown := [image_id for image_id in found if image_id not in truth.imgs]:
        raise UserError(
            f"{path}: there is no image {unknown[0]} in the annotations of its data set, so it is "
            "of another one or of an earlier one; evaluate the model again"
        )
    return kind, found


def overlaps_with_objects(
    kind: str, coco: COCO, image_id: int, results: Results
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Compute the IoU of each result of an image with each of its objects.

    Args:
        kind, results: see :func:`read_results`; R results of the image.
        coco: the ground truth of the data set.
        image_id: the id of the image.

    Returns:
        the G annotations that are not crowds, and the IoU of each result with each of them, (R, G)
        float: of masks for mask proposals, otherwise of boxes. The IoU of a detection with an
        object of another class is 0.
    """
    objects = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd", 0)]
    if not objects or not results:
        return objects, np.zeros((len(results), len(objects)))
    if kind == "mask_proposals":
        sides = [r["segmentation"] for r in results], [coco.annToRLE(a) for a in objects]
    else:
        sides = tuple(np.array([o["bbox"] for o in side], float) for side in (results, objects))
    ious = np.asarray(mask_util.iou(*sides, [0] * len(objects)))
    if kind == "bbox":
        found, wanted = (np.array([o["category_id"] for o in s]) for s in (results, objects))
        ious = ious * (found[:, None] == wanted[None])
    return objects, ious


def _draw_detections(
    image: np.ndarray, kind: str, coco: COCO, image_id: int, detections: Results
) -> list[np.ndarray]:
    """Draw the annotations, crowds included, and the detections, in the colours of the classes."""
    ids, pictures = sorted(coco.cats), []
    for objects in (coco.imgToAnns[image_id], detections):
        names = [coco.cats[o["category_id"]]["name"] for o in objects]
        scores = [f" {o['score']:.2f}" if "score" in o else "" for o in objects]
        labels = [name + score for name, score in zip(names, scores, strict=True)]
        colors = [class_color(ids.index(o["category_id"])) for o in objects]
        pictures.append(_draw(image, [o["bbox"] for o in objects], labels, colors))
    return pictures


def _draw_best_proposals(
    image: np.ndarray, kind: str, coco: COCO, image_id: int, proposals: Results
) -> list[np.ndarray]:
    """Draw the objects, and for each the proposal that fits it best."""
    objects, ious = overlaps_with_objects(kind, coco, image_id, proposals)
    best = ious.max(axis=0, initial=0)
    found = np.flatnonzero(best >= 0.5).tolist()
    chosen = [proposals[ious[:, i].argmax()] for i in found]
    if kind == "mask_proposals":
        truth = [coco.annToRLE(a) for a in objects]
        regions = [proposal["segmentation"] for proposal in chosen]
    else:
        truth, regions = ([o["bbox"] for o in side] for side in (objects, chosen))
    labels = ["" if i in found else "missed" for i in range(len(objects))]
    colors = [class_color(i) for i in range(len(objects))]
    return [
        _draw(image, truth, labels, colors),
        _draw(image, regions, [f"{best[i]:.2f}" for i in found], [colors[i] for i in found]),
    ]


def _draw(
    image: np.ndarray, regions: Sequence[Any], labels: Sequence[str], colors: Sequence[str]
) -> np.ndarray:
    """Draw boxes (x, y, width, height) or RLEs at a size at which their labels fit."""
    scale = picture_scale(image)
    if regions and isinstance(regions[0], dict):
        masks = np.asarray(mask_util.decode(regions)).transpose(2, 0, 1).astype(bool)
        return draw_masks(image, masks, labels, colors, scale)
    boxes = np.array(regions, dtype=np.float64).reshape(-1, 4)
    boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    return draw_boxes(image, boxes, labels, colors, scale)
