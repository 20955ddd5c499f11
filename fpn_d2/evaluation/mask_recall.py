"""Class-agnostic recall of mask proposals (Sec. 6, Table 6): AR at 10, 100 and 1000 masks.

Shape shorthand: R masks of H x W pixels, T IoU thresholds, A ranges of areas, M limits on the
number of masks.

pycocotools matches an image's first 10, 100 and 1000 proposals, by descending score, with its
objects (``useCats=0``); by default it would average over classes and take at most 100 masks.

- AR is the share of all objects that are found, in percent, averaged over the IoUs 0.5, 0.55 ..
  0.95. An image without proposals misses its objects. Crowd regions are no objects, and take no
  proposal from one.
- Small, medium and large are COCO's, by the annotation's ``area``: up to 32^2, up to 96^2 and
  above, in square pixels of the original image, with both ends included. An annotation without an
  area has that of its mask. Each size is matched on its own.
- Proposals of equal score stay in the order in which they were made. Of objects that a proposal
  overlaps equally it takes the last, in the order of their categories and then of the file.
"""

import itertools
import logging
import math
import os
import time
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import COCOeval_opt
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from ..data.coco_json import AnnotationFile
from ..utils.errors import UserError
from ..utils.files import write_json
from .evaluators import quiet_pycocotools, write_results

PARAMS = Params("segm")
PARAMS.maxDets = [10, 100, 1000]
SIZES = ["", "s", "m", "l"]  # the names of PARAMS.areaRng: all, small, medium and large

_MOST_WRITTEN = 100  # proposals of an image that are written for drawing

logger = logging.getLogger(__name__)


class MaskRecallEvaluator(DatasetEvaluator):
    """Average recall of masks. It keeps some counts of each image, and 100 masks for drawing."""

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        """
        Args:
            dataset_name: a registered data set in COCO format.
            output_dir: the folder for ``results.json`` and ``mask_proposals.json``; None writes
                no files.

        Raises:
            UserError: if the data set is in another format.
        """
        json_file = MetadataCatalog.get(dataset_name).get("json_file", "")
        if not json_file:
            raise UserError(
                f"masks cannot be measured on data set {dataset_name}, which has no COCO "
                "annotation file; register it with detectron2's register_coco_instances"
            )
        self._json_file, self._output_dir = json_file, output_dir
        self._coco = AnnotationFile(json_file)
        self.reset()

    def metric_names(self, *_: Any) -> list[str]:
        """See :func:`fpn_d2.evaluation.metric_names`."""
        recalls = [f"AR{size}@{limit}" for size in SIZES for limit in PARAMS.maxDets]
        return [f"mask_proposals/{name}" for name in (*recalls, "masks_per_second")]

    def reset(self) -> None:
        """See :meth:`DatasetEvaluator.reset`."""
        self._seen: set[int] = set()  # the ids of the images
        self._taken = np.zeros((len(PARAMS.iouThrs), len(SIZES), len(PARAMS.maxDets)), np.int64)
        self._objects = np.zeros(len(SIZES), np.int64)
        self._written: list[dict[str, Any]] = []
        self._num_masks, self._seconds = 0, 0.0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Match the masks of each image with its objects.

        Args:
            inputs: the images, each with ``image_id``.
            outputs: each with ``instances``: ``scores`` (R,) and ``pred_masks``, RegionMasks or
                (R, H, W) bool, in pixels of the original image.

        Raises:
            UserError: if an object has no mask, or one of another size than the image.
        """
        start = time.perf_counter()
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            order = instances.scores.sort(descending=True, stable=True).indices
            order = order[: PARAMS.maxDets[-1]]
            rles, scores = _encode(instances.pred_masks[order]), instances.scores[order].tolist()
            taken, objects = self._count(image["image_id"], rles, scores)
            self._seen.add(image["image_id"])
            self._taken += taken
            self._objects += objects
            for rle, score in zip(rles[:_MOST_WRITTEN], scores, strict=False):
                segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
                fields = {"image_id": image["image_id"], "segmentation": segmentation}
                self._written.append({**fields, "score": round(score, 5)})
            self._num_masks += len(rles)
        self._seconds += time.perf_counter() - start

    def evaluate(self) -> dict[str, Any]:
        """Measure the recall over all images.

        Returns:
            ``{"mask_proposals": {"AR@1000": ..., "ARs@1000": ..., "masks_per_second": ...}}``, AR
            in percent and NaN for a size that no object has; empty in all processes but the main
            one. Masks per second count the encoding and the matching in :meth:`process`.
        """
        comm.synchronize()
        sums = self._taken, self._objects, self._num_masks, self._seconds
        parts = comm.gather((self._seen, *sums, self._written), dst=0)
        if not comm.is_main_process():
            return {}
        seen, taken, objects, num_masks, seconds, written = zip(*parts, strict=True)
        taken, objects = sum(taken), sum(objects)
        left_out = set(self._coco.getImgIds()).difference(*seen)
        if left_out:
            logger.warning("%d images were not evaluated: their objects are missed", len(left_out))
            objects = objects + sum(self._count(image, [], [])[1] for image in left_out)
        results = {
            f"AR{size}@{limit}": float(100 * taken[:, a, m].mean() / objects[a])
            if objects[a]
            else math.nan
            for a, size in enumerate(SIZES)
            for m, limit in enumerate(PARAMS.maxDets)
        }
        results["masks_per_second"] = sum(num_masks) / max(sum(seconds), 1e-9)
        logger.info("Recall of mask proposals:\n%s", create_small_table(results))
        if self._output_dir:
            write_results(self._output_dir, {"mask_proposals": results})
            path = os.path.join(self._output_dir, "mask_proposals.json")
            write_json(path, list(itertools.chain(*written)))
        return {"mask_proposals": results}

    def _count(
        self, image_id: int, rles: list[dict[str, Any]], scores: list[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Count an image's objects: (T, A, M) that its proposals take, and (A,) in all."""
        annotations = [a for a in self._coco.imgToAnns[image_id] if not a.get("iscrowd", 0)]
        annotations.sort(key=lambda annotation: annotation["category_id"])  # pycocotools' order
        masks = [self._rle_of(annotation) for annotation in annotations]
        areas = np.array(
            [a.get("area", mask_util.area(m)) for a, m in zip(annotations, masks, strict=True)]
        )
        objects = np.array(
            [np.count_nonzero((areas >= low) & (areas <= high)) for low, high in PARAMS.areaRng]
        )
        sizes = {tuple(rle["size"]) for rle in rles + masks}  # for two sizes its IoU is -1
        assert len(sizes) <= 1, f"proposals and objects of image {image_id} are of sizes {sizes}"
        if not rles or not masks:
            return np.zeros_like(self._taken), objects
        # One image at a time: the masks of a whole data set are gigabytes.
        with quiet_pycocotools():
            evaluation = COCOeval_opt(
                _as_coco(masks, area=areas.tolist()), _as_coco(rles, score=scores), "segm"
            )
            evaluation.params.useCats, evaluation.params.maxDets = 0, list(PARAMS.maxDets)
            evaluation.evaluate()
            evaluation.accumulate()
        recall = evaluation.eval["recall"][:, 0]  # (T, A, M), -1 where no object is of a size
        return np.rint(recall.clip(min=0) * objects[:, None]).astype(np.int64), objects

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


def _as_coco(rles: list[dict[str, Any]], **fields: list[float]) -> COCO:
    """Make a pycocotools data set of an image's masks; each field has one value for each mask."""
    height, width = rles[0]["size"]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "categories": [{"id": 1}],
        "annotations": [
            # Numbered from 1, because pycocotools takes a match with number 0 for none.
            {"id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": rle}
            | {"area": int(mask_util.area(rle))}
            | {name: values[i] for name, values in fields.items()}
            for i, rle in enumerate(rles)
        ],
    }
    coco.createIndex()
    return coco


def _encode(masks: Any) -> list[dict[str, Any]]:
    if hasattr(masks, "to_rle"):
        return masks.to_rle()
    # One at a time: a thousand masks of an image already take a gigabyte.
    pixels = (mask.to(torch.uint8).numpy() for mask in masks)
    return [mask_util.encode(np.asfortranarray(mask)) for mask in pixels]
