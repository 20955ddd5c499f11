"""Which mistakes a detector makes: curves, thresholds, kinds of error, AP by size and by level.

Shape shorthand: N images, K classes, D detections and G objects (without crowds) of all images.

pycocotools matches detections and objects; supervision makes the confusion matrix. The kinds of
error are those of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020), with its thresholds. A detection that found no object of its own is an error of
the first of these kinds that applies:

- place: its IoU with an object of its class is 0.1 to 0.5,
- class: its IoU with an object of another class is at least 0.5,
- twice: its IoU with an object of its class that a better detection has found is at least 0.5,
- background: its IoU with any object is at most 0.1,
- both: anything else, which is wrong in class and in place.

An object is missed if no detection found it, and none has an error of place or class about it. The
dAP of a kind is what AP at IoU 0.5 would gain if an oracle corrected all errors of that kind. An
error of place or class is put right if nothing found its object and no better detection has such an
error about it; otherwise it is removed, as are all errors of twice, background and both. Missed
objects no longer count, nor does a class of which nothing is left. Detections in crowd regions
count neither way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import supervision as sv
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from ..evaluation.evaluators import quiet_pycocotools
from .coco_matches import (
    best_f1,
    grouped,
    interpolated,
    match_boxes_once,
    mean_ap,
    precisions_by_area,
    renumbered,
)
from .tested_levels import PyramidLevels

IOU, BACKGROUND_IOU = 0.5, 0.1  # TIDE's t_f and t_b
KINDS = ("class", "place", "both", "twice", "background", "missed")
SIZES = dict(zip(("small", "medium", "large"), Params("bbox").areaRng[1:], strict=True))

_CORRECT, _LEFT_OUT = -1, -2  # besides the indices of KINDS


class ErrorAnalysis:
    """The mistakes on one test set.

    Attributes:
        dataset, image_root: the name of the data set, and the folder of its images.
        images: N records of images, by ascending id.
        class_ids, class_names: the K categories, by ascending id, as Detectron2 orders classes.
        objects: G annotations; ``object_images`` and ``object_classes`` (G,) are indices.
        detections: D results in COCO's form; ``image``, ``label`` (indices) and ``score`` are (D,).
        matched: (D,) the object that each detection found at IoU 0.5, or -1.
        kinds: (D,) indices of :data:`KINDS`; -1 correct, -2 left out (crowds, past the best 100).
        targets: (D,) the object that an error of class or place is about, or -1.
        missed: (G,) bool, whether an object is missed as TIDE defines it.
        errors: for each kind its ``count``, over all scores, and its ``dAP`` in points.
        ap: ``AP``, ``AP50`` and ``AP75`` in percent; ``by_size``, ``by_level`` have the first two.
        curves: for each class its figures at IoU 0.5, its curve and its best threshold.
        levels: how boxes get their level.
    """

    def __init__(self, dataset: str, truth: COCO, results: list[dict], levels: PyramidLevels):
        """Match and measure.

        Args:
            dataset: the name of the data set.
            truth: its annotations.
            results: the detections in COCO's form, at least one.
            levels: how boxes get their level.
        """
        self.dataset, self.image_root, self.levels = dataset, "", levels
        truth = renumbered(truth)
        self.images = [truth.imgs[i] for i in sorted(truth.imgs)]
        self.class_ids = sorted(truth.cats)
        self.class_names = [str(truth.cats[i].get("name", i)) for i in self.class_ids]
        with quiet_pycocotools():
            found = truth.loadRes(results)
        self.detections = [found.anns[i + 1] for i in range(len(results))]
        self.image, self.label = self._indices(self.detections)
        self.score = np.array([d["score"] for d in self.detections])
        # pycocotools' order: detections of equal score by their image
        self._ranked = np.lexsort((self.image, -self.score))
        annotations = [truth.anns[i + 1] for i in range(len(truth.anns))]
        self.objects = [a for a in annotations if not a["iscrowd"]]  # numbered before the crowds
        self.object_images, self.object_classes = self._indices(self.objects)
        self.matched, left_out, ious = match_boxes_once(truth, found, IOU)
        self._measure_ap(truth, found, ious, annotations)
        self._find_kinds(left_out)
        self.curves, self.errors = self._find_curves(), self._find_errors()
        self.num_crowds = len(annotations) - len(self.objects)

    def _indices(self, records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of each record's image and that of its class."""
        images = {image["id"]: i for i, image in enumerate(self.images)}
        classes = {category: i for i, category in enumerate(self.class_ids)}
        pairs = [(images[r["image_id"]], classes[r["category_id"]]) for r in records]
        first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return first, second

    # --- AP

    def _measure_ap(
        self, truth: COCO, found: COCO, ious: Mapping[Any, Any], annotations: list[dict]
    ) -> None:
        """Measure AP over ten IoUs, by size and by level; pycocotools selects both by ``area``."""
        of_sizes = precisions_by_area(truth, found, [[0, 1e10], *SIZES.values()], ious)
        self._precision = whole = of_sizes[..., 0]
        names = {"AP": slice(None), "AP50": 0, "AP75": 5}
        self.ap = {name: mean_ap(whole[which]) for name, which in names.items()}
        areas = np.array([a["area"] for a in self.objects])
        counts = [((low <= areas) & (areas <= high)).sum() for low, high in SIZES.values()]
        self.by_size = self._aps(of_sizes[..., 1:], SIZES, counts)
        shapes = np.array([(i["height"], i["width"]) for i in self.images])
        for records, images in (
            (annotations, self._indices(annotations)[0]),
            (self.detections, self.image),
        ):
            boxes = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
            of_boxes = self.levels.of(boxes, shapes[images])
            for record, level in zip(records, of_boxes.tolist(), strict=True):
                record["area"] = level
        levels = self.levels.numbers
        precision = precisions_by_area(truth, found, [[k, k] for k in levels], ious)
        counts = [sum(a["area"] == k for a in self.objects) for k in levels]
        self.by_level = self._aps(precision, [f"P{k}" for k in levels], counts)

    def _aps(
        self, precision: np.ndarray, names: Sequence[str] | Mapping, counts: Sequence[int]
    ) -> dict[str, dict[str, float | None]]:
        return {
            name: {
                "objects": int(counts[i]),
                "AP": mean_ap(precision[..., i]),
                "AP50": mean_ap(precision[0, ..., i]),
            }
            for i, name in enumerate(names)
        }

    # --- kinds of error

    def _find_kinds(self, left_out: np.ndarray) -> None:
        self.kinds = np.where(self.matched >= 0, _CORRECT, KINDS.index("background"))
        self.kinds[left_out] = _LEFT_OUT
        self.targets = np.full(len(self.kinds), -1, dtype=np.int64)
        wrong = np.flatnonzero((self.matched < 0) & ~left_out)
        of_objects = grouped(self.object_images, len(self.images))
        for i, own in enumerate(grouped(self.image[wrong], len(self.images))):
            own, objects = wrong[own], of_objects[i]
            if len(own) and len(objects):
                self.kinds[own], self.targets[own] = self._kinds_of(own, objects)
        # Each object gets the best of the detections that could be put right.
        is_found = np.isin(np.arange(len(self.objects)), self.matched)
        best = np.flatnonzero(self.targets >= 0)
        best = best[~is_found[self.targets[best]]]
        best = best[np.argsort(-self.score[best], kind="stable")]
        covered, first = np.unique(self.targets[best], return_index=True)
        self._corrected = best[first]
        self.missed = ~is_found
        self.missed[covered] = False

    def _kinds_of(self, own: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the kinds of an image's wrong detections, and the objects they are about."""
        found = np.array([self.detections[i]["bbox"] for i in own], dtype=np.float64)
        wanted = np.array([self.objects[i]["bbox"] for i in objects], dtype=np.float64)
        ious = mask_util.iou(found, wanted, [0] * len(objects))
        same = self.label[own][:, None] == self.object_classes[objects]
        of_class, of_others = ious * same, ious * ~same
        near, other = of_class.max(axis=1), of_others.max(axis=1)
        conditions = {
            "place": (near >= BACKGROUND_IOU) & (near <= IOU),
            "class": other >= IOU,
            "twice": near >= IOU,
            "background": ious.max(axis=1) <= BACKGROUND_IOU,
        }
        numbers = [KINDS.index(kind) for kind in conditions]
        kinds = np.select(list(conditions.values()), numbers, KINDS.index("both"))
        targets = [objects[of_class.argmax(axis=1)], objects[of_others.argmax(axis=1)]]
        is_kind = [kinds == KINDS.index(kind) for kind in ("place", "class")]
        return kinds, np.select(is_kind, targets, -1)

    def _find_errors(self) -> dict[str, dict[str, float]]:
        kept, hits = self.kinds != _LEFT_OUT, self.matched >= 0
        objects = np.bincount(self.object_classes, minlength=len(self.class_ids))
        base, found = self._ap50(kept, hits, self.label, objects), {}
        for kind in KINDS[:-1]:
            of_kind = self.kinds == KINDS.index(kind)
            put_right = self._corrected[of_kind[self._corrected]]
            now_kept, now_hits, now_label = kept & ~of_kind, hits.copy(), self.label.copy()
            now_kept[put_right] = now_hits[put_right] = True
            now_label[put_right] = self.object_classes[self.targets[put_right]]
            ap = self._ap50(now_kept, now_hits, now_label, objects)
            found[kind] = {"count": int(of_kind.sum()), "dAP": max(0.0, ap - base)}
        missed = np.bincount(self.object_classes[self.missed], minlength=len(objects))
        ap = self._ap50(kept, hits, self.label, objects - missed)
        found["missed"] = {"count": int(missed.sum()), "dAP": max(0.0, ap - base)}
        return found

    def _ap50(
        self, kept: np.ndarray, hits: np.ndarray, label: np.ndarray, objects: np.ndarray
    ) -> float:
        """Return the mean AP at IoU 0.5 of the classes that have objects, in percent.

        As in TIDE, a class with neither objects nor detections left has no AP.
        """
        order = self._ranked[kept[self._ranked]]
        of_class = grouped(label[order], len(self.class_ids))
        aps = [
            interpolated(hits[order[of_class[k]]], objects[k]).mean()
            for k in np.unique(self.object_classes)
            if objects[k] or len(of_class[k])
        ]
        return 100 * float(np.mean(aps)) if aps else 0.0

    # --- curves and thresholds

    def _find_curves(self) -> list[dict[str, Any]]:
        """Return each class's figures at IoU 0.5: its curve, and where F1 is best."""
        ranked, curves = self._ranked[self.kinds[self._ranked] != _LEFT_OUT], []
        objects = np.bincount(self.object_classes, minlength=len(self.class_ids)).tolist()
        for k, own in enumerate(grouped(self.label[ranked], len(self.class_ids))):
            hits, scores = self.matched[ranked[own]] >= 0, self.score[ranked[own]]
            curve = {"id": self.class_ids[k], "name": self.class_names[k], "objects": objects[k]}
            curve |= {"detections": len(own), "AP": mean_ap(self._precision[:, :, k])}
            curve["AP50"] = mean_ap(self._precision[0, :, k])
            curve |= best_f1(scores, hits, objects[k])
            curve["precisions"] = interpolated(hits, objects[k]).tolist() if objects[k] else None
            curves.append(curve)
        return curves

    def shown(self, thresholds: Sequence[float]) -> np.ndarray:
        """Return which detections reach their class's threshold and are not left out, (D,) bool."""
        enough = self.score >= np.asarray(thresholds, dtype=np.float64)[self.label]
        return enough & (self.kinds != _LEFT_OUT)

    def confusion(self, thresholds: Sequence[float]) -> np.ndarray:
        """Count which classes are taken for which; see :class:`supervision.ConfusionMatrix`.

        Pairs need an IoU above 0.5; pairs of one class come first, then those of the larger IoU.

        Args:
            thresholds: the least score of each class.

        Returns:
            (K + 1, K + 1) int: a row for each class of an object and a column for each class of a
            detection; the last column counts objects that none found, the last row detections on
            no object.
        """
        shown = np.flatnonzero(self.shown(thresholds))

        def rows(records: Sequence[dict], label: np.ndarray, *more: np.ndarray) -> np.ndarray:
            boxes = np.array([r["bbox"] for r in records], dtype=np.float32).reshape(-1, 4)
            return np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:], label, *more])

        found = rows([self.detections[i] for i in shown], self.label[shown], self.score[shown])
        wanted = rows(self.objects, self.object_classes)
        images = len(self.images)
        return sv.ConfusionMatrix.from_tensors(
            [found[own] for own in grouped(self.image[shown], images)],
            [wanted[own] for own in grouped(self.object_images, images)],
            self.class_names,
            conf_threshold=0.0,
            iou_threshold=IOU,
        ).matrix

    def worst_images(self, thresholds: Sequence[float], number: int) -> list[dict[str, int]]:
        """List the images with the most mistakes: false detections and objects that none found.

        Args:
            thresholds: the least score of each class.
            number: how many images at most; those without mistakes are left out.

        Returns:
            each image's ``index`` and its numbers of ``false`` detections and ``missed`` objects.
        """
        shown = self.shown(thresholds)
        false = np.bincount(self.image[shown & (self.matched < 0)], minlength=len(self.images))
        lost = ~np.isin(np.arange(len(self.objects)), self.matched[shown])
        missed = np.bincount(self.object_images[lost], minlength=len(self.images))
        order = np.argsort(-(false + missed), kind="stable")[:number]
        return [
            {"index": int(i), "false": int(false[i]), "missed": int(missed[i])}
            for i in order
            if false[i] + missed[i]
        ]

    def as_json(self, thresholds: Sequence[float]) -> dict[str, Any]:
        """Return the figures in the form of ``analysis.json``; see docs/analysis.md."""
        return {
            "images": len(self.images),
            "objects": len(self.objects),
            "detections": int((self.kinds != _LEFT_OUT).sum()),
            "crowd_regions": self.num_crowds,
            "iou": {"match": IOU, "background": BACKGROUND_IOU},
            **self.ap,
            "by_size": self.by_size,
            "by_level": self.by_level,
            "errors": self.errors,
            "classes": self.curves,
            "confusion": {
                "score_thresholds": list(thresholds),
                "matrix": self.confusion(thresholds).tolist(),
            },
        }
