"""Class-agnostic recall of mask proposals (Sec. 6, Table 6): AR at 10, 100 and 1000 masks.

Shape shorthand: D proposals and G objects of an image, T IoU thresholds, R masks of H x W pixels.

The protocol is pycocotools' with ``useCats=0`` and ``maxDets`` of 10, 100 and 1000. (Numbers in the
literature differ: its defaults are a mean over classes and at most 100 masks, and its ``summarize``
prints small, medium and large at the last of ``maxDets`` only.)

- Classes are ignored. An image's proposals are taken in descending score, equal ones in the order
  in which they were made, and of each image the first 10, 100 or 1000.
- At each IoU of 0.5, 0.55 .. 0.95 COCO's greedy matching: each proposal takes, of the objects not
  yet taken that it overlaps by at least that IoU, the one it overlaps most; of equal ones the last,
  by category and then as annotated.
- Recall is the share of all objects of the data set that are taken; AR is its mean over the ten
  IoUs, in percent.
- Small, medium and large are COCO's by the annotation's ``area``: to 32^2, to 96^2 and above, in
  square pixels of the original image, both ends included; without it, by the mask's pixels. Each is
  matched on its own.
- Crowd regions are no objects and take no proposal from one. (In COCO's matching, too, an ignored
  region takes only proposals that no object that counts could take.)
- An object of an image without proposals is missed.
"""

import contextlib
import io
import logging
import os
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO

from ..utils.errors import UserError
from ..utils.files import write_json

__all__ = ["MaskRecallEvaluator", "average_recall", "match_ranks"]

LIMITS = (10, 100, 1000)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}

_NEVER = np.iinfo(np.int64).max
_KEPT = 100  # proposals of an image that are written for drawing

logger = logging.getLogger(__name__)


def match_ranks(ious: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """The rank of the proposal that takes each object.

    As the matching is greedy, that of the first N proposals is the beginning of that of all, and
    an object is found by N proposals where its rank is below N.

    Args:
        ious: (D, G), of D proposals, the best first, with G objects.
        thresholds: (T,) IoUs.

    Returns:
        (T, G) int64, from 0; the largest integer where none takes it.
    """
    ranks = np.full((len(thresholds), ious.shape[1]), _NEVER)
    if not ious.size:
        return ranks
    best = ious.max(axis=1)
    for row, threshold in zip(ranks, thresholds, strict=True):
        least = min(threshold, 1 - 1e-10)  # as pycocotools has it
        for proposal in np.flatnonzero(best >= least):
            free = (row == _NEVER) & (ious[proposal] >= least)
            if free.any():
                overlaps = np.where(free, ious[proposal], -1)
                # of equal ones the last, as pycocotools has it
                row[len(overlaps) - 1 - overlaps[::-1].argmax()] = proposal
                if (row != _NEVER).all():
                    break
    return ranks


def average_recall(ranks: np.ndarray, limit: int) -> float:
    """Mean recall over the thresholds.

    Args:
        ranks: (T, G) of all objects, from :func:`match_ranks`.
        limit: N.

    Returns:
        0 to 1, or NaN where there is no object.
    """
    return float((ranks < limit).mean()) if ranks.size else float("nan")


class MaskRecallEvaluator(DatasetEvaluator):
    """Average recall of masks; keeps of an image's masks their ranks alone, and 100 for drawing."""

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        """
        Args:
            dataset_name: a registered data set in COCO format.
            output_dir: for ``results.json`` and ``mask_proposals.json``; None writes nothing.

        Raises:
            UserError: where the data set is in another format.
        """
        json_file = MetadataCatalog.get(dataset_name).get("json_file", "")
        if not json_file:
            raise UserError(
                f"the recall of masks cannot be measured on data set {dataset_name}, which has no "
                "COCO annotation file; register it with detectron2's register_coco_instances"
            )
        self._json_file, self._output_dir = json_file, output_dir
        self._coco = _quiet_coco(json_file)
        self.reset()

    def reset(self) -> None:
        """See :meth:`DatasetEvaluator.reset`."""
        self._ranks: dict[int, dict[str, np.ndarray]] = {}
        self._kept: list[dict[str, Any]] = []
        self._num_masks, self._seconds = 0, 0.0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Match an image's masks at once.

        Args:
            inputs: with ``image_id``.
            outputs: with ``instances``, whose ``scores`` are (R,) and whose ``pred_masks`` are
                :class:`fpn_d2.structures.RegionMasks` or (R, H, W) bool, in the original image.

        Raises:
            UserError: where an object's annotation has no mask, or one of another size.
        """
        start = time.perf_counter()
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            order = instances.scores.sort(descending=True, stable=True).indices[: max(LIMITS)]
            rles = _encode(instances.pred_masks[order])
            scores = instances.scores[order].tolist()
            self._ranks[image["image_id"]] = self._match(image["image_id"], rles)
            self._kept += [
                {
                    "image_id": image["image_id"],
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "score": round(score, 5),
                }
                for rle, score in zip(rles[:_KEPT], scores, strict=False)
            ]
            self._num_masks += len(rles)
        self._seconds += time.perf_counter() - start

    def evaluate(self) -> dict[str, Any]:
        """Measure the recall over all images.

        Returns:
            ``{"mask_proposals": {"AR@1000": ..., "ARs@1000": ..., "masks_per_second": ...}}``, in
            percent, NaN where no object is of a size; empty in all processes but the main one.
        """
        comm.synchronize()
        gathered = comm.gather((self._ranks, self._kept, self._num_masks, self._seconds), dst=0)
        if not comm.is_main_process():
            return {}
        ranks = {image: areas for part in gathered for image, areas in part[0].items()}
        left_out = [image for image in self._coco.getImgIds() if image not in ranks]
        if left_out:
            logger.warning("%d images were not evaluated: their objects are missed", len(left_out))
            ranks |= {image: self._match(image, []) for image in left_out}
        results = {}
        for name in AREAS:
            of_area = [areas[name] for areas in ranks.values()]
            all_ranks = np.concatenate(of_area, axis=1) if of_area else np.zeros((0, 0))
            for limit in LIMITS:
                results[f"AR{name}@{limit}"] = 100 * average_recall(all_ranks, limit)
        seconds = sum(part[3] for part in gathered)
        results["masks_per_second"] = sum(part[2] for part in gathered) / max(seconds, 1e-9)
        logger.info("Recall of mask proposals:\n%s", create_small_table(results))
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            kept = [proposal for part in gathered for proposal in part[1]]
            write_json(os.path.join(self._output_dir, "mask_proposals.json"), kept)
            numbers = {k: None if np.isnan(v) else v for k, v in results.items()}
            path = os.path.join(self._output_dir, "results.json")
            write_json(path, {"mask_proposals": numbers})
        return OrderedDict(mask_proposals=results)

    def _match(self, image_id: int, rles: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """The ranks of an image's objects, by size."""
        objects = [
            annotation
            for annotation in self._coco.imgToAnns[image_id]
            if not annotation.get("iscrowd", 0)
        ]
        objects.sort(key=lambda annotation: annotation["category_id"])  # pycocotools' order
        truth = [self._rle_of(annotation) for annotation in objects]
        sizes = {tuple(rle["size"]) for rle in rles + truth}  # pycocotools' IoU of two is -1
        assert len(sizes) <= 1, f"proposals and objects of image {image_id} are of sizes {sizes}"
        areas = np.array(
            [a.get("area", mask_util.area(rle)) for a, rle in zip(objects, truth, strict=True)]
        )
        if rles and truth:
            ious = np.asarray(mask_util.iou(rles, truth, [0] * len(truth)))
        else:
            ious = np.zeros((len(rles), len(truth)))
        return {
            name: match_ranks(ious[:, (areas >= low) & (areas <= high)])
            for name, (low, high) in AREAS.items()
        }

    def _rle_of(self, annotation: dict[str, Any]) -> dict[str, Any]:
        image = self._coco.imgs[annotation["image_id"]]
        name = f"annotation {annotation['id']} of image {image['file_name']} in {self._json_file}"
        try:
            rle = self._coco.annToRLE(annotation)
        except Exception as error:  # pycocotools raises nearly any error
            raise UserError(
                f"{name} has no mask that can be read ({error!r}): give it a segmentation of "
                "polygons or an RLE"
            ) from error
        if list(rle["size"]) != [image["height"], image["width"]]:
            raise UserError(
                f"{name} has an RLE of size {rle['size']}, but the image's height and width are "
                f"{[image['height'], image['width']]}: encode the mask at the image's size"
            )
        return rle


def _quiet_coco(json_file: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(json_file)


def _encode(masks: Any) -> list[dict[str, Any]]:
    if hasattr(masks, "to_rle"):
        return masks.to_rle()
    # One at a time: a thousand masks of an image are a gigabyte as it is.
    pixels = (mask.to(torch.uint8).numpy() for mask in masks)
    return [mask_util.encode(np.asfortranarray(mask)) for mask in pixels]
