"""The evaluators of test sets, the metrics that they report and write, and the ground truth."""

import contextlib
import copy
import functools
import importlib.util
import io
import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    RotatedCOCOEvaluator,
    SemSegEvaluator,
    lvis_evaluation,
)
from detectron2.evaluation import coco_evaluation as detectron2_evaluation
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.modeling import PanopticFPN, SemanticSegmentor
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from ..config_checks import rotated_key
from ..config_values import value_of
from ..data.annotation_file import has_mask
from ..data.coco_json import AnnotationFile, shared_reading
from ..data.datasets.folders import make_ready
from ..data.validation import is_semantic
from ..modeling import MaskProposalNetwork
from ..modeling.fpn import is_written_in, meta_architecture
from ..utils.errors import UserError, reason_of
from ..utils.files import write_json
from ..utils.modules import overridden
from ..utils.progress import working

_AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_RECALL_NAMES = [f"box_proposals/AR{size}@{n}" for n in (100, 1000) for size in ("", "s", "m", "l")]
_MORE_LIMITS = (10, 30, 300)
_COCO_LIMIT = 100  # so many detections of an image count for COCO's AP
_LVIS_LIMIT = 300  # and so many for LVIS's
_PANOPTIC = "coco_panoptic_seg"  # Detectron2's name of COCO's panoptic evaluation

logger = logging.getLogger(__name__)


class _ResultsWriting(DatasetEvaluator):
    """Writes what the evaluator beside it among the parents measures, as ``results.json``."""

    source = ""  # whose metrics they are
    _output_dir: str | None

    def evaluate(self, *args: Any) -> dict[str, Any] | None:
        """See the other parent's ``evaluate``."""
        with working(f"computing {self.source}'s metrics"):
            results = super().evaluate(*args)
        if self._output_dir and results:  # only the main process has results
            write_results(self._output_dir, results)
        return results


class ResultsWritingCOCOEvaluator(_ResultsWriting, COCOEvaluator):
    """A :class:`COCOEvaluator` that also writes the metrics that it returns, as ``results.json``.

    Detectron2 writes the metrics of ``--eval-only`` only to the log. For the curve of AR over the
    number of proposals, this evaluator also measures recall at 10, 30 and 300 proposals, besides
    Detectron2's 100 and 1000.
    """

    source = "COCO"

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        **kwargs: Any,
    ):
        """See :class:`COCOEvaluator`.

        A data set without an annotation file is converted anew each time, since nothing says
        whether what an earlier run has converted is still the same.

        Raises:
            UserError: if the annotation file cannot be read, or there are no class names.
        """
        metadata = MetadataCatalog.get(dataset_name)
        with shared_reading():
            if metadata.get("json_file"):
                super().__init__(dataset_name, tasks, distributed, output_dir, **kwargs)
                return
            if not metadata.get("thing_classes"):
                raise UserError(
                    f"data set {dataset_name} has no names of classes, and COCO's evaluation needs "
                    f"them: set MetadataCatalog.get('{dataset_name}').thing_classes"
                )
            records = DatasetCatalog.get(dataset_name)
            if any("keypoints" in a for record in records for a in record.get("annotations", ())):
                records = copy.deepcopy(records)  # the conversion moves them in place
            with (
                overridden(DatasetCatalog, get=lambda _: records),  # no other one is asked for
                tempfile.TemporaryDirectory() as folder,  # the conversion is read at once
            ):
                kwargs["allow_cached_coco"] = False
                super().__init__(dataset_name, tasks, distributed, output_dir or folder, **kwargs)
            self._output_dir = output_dir
        del metadata.json_file  # the next evaluation would take it for the data set's

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """See :meth:`COCOEvaluator.evaluate`."""
        _give_crowds_masks(self._coco_api)
        return super().evaluate(img_ids)

    def metric_names(self, cfg: CfgNode, dataset: str) -> list[str]:
        """See :func:`metric_names`."""
        if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
            more = (f"box_proposals/AR@{limit}" for limit in _MORE_LIMITS)
            return [*_RECALL_NAMES, *more]
        classes = MetadataCatalog.get(dataset).get("thing_classes") or []
        each = [f"AP-{name}" for name in classes] if len(classes) > 1 else []
        tasks = ["bbox", "segm"] if cfg.MODEL.MASK_ON else ["bbox"]
        names = [f"{task}/{name}" for task in tasks for name in (*_AP_NAMES, *each)]
        if cfg.MODEL.KEYPOINT_ON:
            names += [f"keypoints/{name}" for name in _AP_NAMES if name != "APs"]
        return names

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        """See :meth:`COCOEvaluator._eval_box_proposals`; adds AR@10, AR@30 and AR@300, and counts
        the objects of images without proposals as missed."""
        with overridden(detectron2_evaluation, _evaluate_box_proposals=_recall):
            super()._eval_box_proposals(predictions)
        if "box_proposals" in self._results:  # not for images without annotations
            for limit in _MORE_LIMITS:
                recall = _recall(predictions, self._coco_api, limit=limit)
                self._results["box_proposals"][f"AR@{limit}"] = recall["ar"].item() * 100


def _recall(
    predictions: list[dict[str, Any]],
    *args: Any,
    measure: Callable[..., dict[str, Any]] = _evaluate_box_proposals,
    **kwargs: Any,
) -> dict[str, Any]:
    """Call Detectron2's recall, ``measure``, with its arguments. It does not count the objects of
    an image without proposals, so such an image gets one that covers nothing."""
    counted = []
    for prediction in predictions:
        proposals = prediction["proposals"]
        if not len(proposals):
            proposals = Instances(
                proposals.image_size,
                proposal_boxes=Boxes(torch.zeros(1, 4)),
                objectness_logits=torch.full((1,), -math.inf),
            )
        counted.append({**prediction, "proposals": proposals})
    return measure(counted, *args, **kwargs)


def _give_crowds_masks(truth: COCO) -> None:
    """Give crowds without a mask, such as difficult objects of VOC's, their box as one; without it
    COCO's evaluation of masks stops."""
    for annotation in truth.dataset.get("annotations", ()):
        if annotation.get("iscrowd", 0) and not has_mask(annotation):
            left, top, width, height = annotation["bbox"]
            right, bottom = left + width, top + height
            annotation["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]


class ResultsWritingRotatedEvaluator(ResultsWritingCOCOEvaluator, RotatedCOCOEvaluator):
    """A :class:`RotatedCOCOEvaluator` that also writes its metrics as ``results.json``."""


class ResultsWritingVOCEvaluator(_ResultsWriting, PascalVOCDetectionEvaluator):
    """A :class:`PascalVOCDetectionEvaluator` that also writes its metrics as ``results.json``."""

    source = "Pascal VOC"

    def __init__(self, dataset_name: str, output_dir: str):
        """See :class:`PascalVOCDetectionEvaluator`; ``output_dir`` is the folder of the file."""
        super().__init__(dataset_name)
        self._output_dir = output_dir

    def metric_names(self, cfg: CfgNode, dataset: str) -> list[str]:
        """See :func:`metric_names`."""
        return [f"bbox/{name}" for name in _AP_NAMES[:3]]


class ResultsWritingSemSegEvaluator(_ResultsWriting, SemSegEvaluator):
    """A :class:`SemSegEvaluator` that also writes its metrics as ``results.json``."""

    source = "semantic segmentation"

    def metric_names(self, cfg: CfgNode, dataset: str) -> list[str]:
        """See :func:`metric_names`."""
        kinds = ["IoU", "ACC"]
        if self._compute_boundary_iou:  # where there is OpenCV
            kinds += ["BoundaryIoU", "min(IoU, B-Iou)"]
        each = (f"{kind}-{name}" for kind in kinds for name in self._class_names)
        return [f"sem_seg/{name}" for name in ("mIoU", "fwIoU", "mACC", "pACC", *each)]


class PanopticQualityEvaluator(COCOPanopticEvaluator):
    """A :class:`COCOPanopticEvaluator` that names its metrics."""

    def metric_names(self, cfg: CfgNode, dataset: str) -> list[str]:
        """See :func:`metric_names`."""
        return [
            f"panoptic_seg/{name}{of}" for of in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ")
        ]


class PanopticEvaluator(_ResultsWriting, DatasetEvaluators):
    """The evaluators of segments, objects and both, whose metrics are one ``results.json``."""

    source = "panoptic segmentation"

    def __init__(self, evaluators: Sequence[Any], output_dir: str):
        """See :class:`DatasetEvaluators`; ``output_dir`` is the folder of the file."""
        super().__init__(evaluators)
        self._output_dir = output_dir

    def metric_names(self, cfg: CfgNode, dataset: str) -> list[str]:
        """See :func:`metric_names`."""
        return [name for one in self._evaluators for name in one.metric_names(cfg, dataset)]


class ResultsWritingLVISEvaluator(_ResultsWriting, LVISEvaluator):
    """A :class:`LVISEvaluator` that also writes its metrics as ``results.json``."""

    source = "LVIS"

    def __init__(self, dataset_name: str, output_dir: str, **kwargs: Any):
        """See :class:`LVISEvaluator`; ``output_dir`` is the folder of the file.

        Raises:
            UserError: if the package lvis is not installed.
        """
        try:
            super().__init__(dataset_name, output_dir=output_dir, **kwargs)
        except ImportError as error:
            raise UserError(
                f"data set {dataset_name} is LVIS's, whose metrics the package lvis computes ("
                f"{reason_of(error)}): python -m pip install lvis"
            ) from error

    def evaluate(self) -> dict[str, Any] | None:
        """See :meth:`LVISEvaluator.evaluate`."""
        # lvis 0.5.3, the latest release, uses np.float, which NumPy has removed.
        with overridden(np, float=float):
            return super().evaluate()

    def _eval_predictions(self, predictions: list[dict[str, Any]]) -> None:
        """See :meth:`LVISEvaluator._eval_predictions`; NaN, as COCO's, where no object is asked
        for, of which lvis says -1."""
        super()._eval_predictions(predictions)
        for metrics in self._results.values():
            metrics.update({name: math.nan for name, value in metrics.items() if value < 0})

    def metric_names(self, cfg: CfgNode, dataset: str) -> list[str]:
        """See :func:`metric_names`."""
        if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
            return _RECALL_NAMES
        tasks = ["bbox", "segm"] if cfg.MODEL.MASK_ON else ["bbox"]
        return [f"{task}/{name}" for task in tasks for name in (*_AP_NAMES, "APr", "APc", "APf")]

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        """See :meth:`LVISEvaluator._eval_box_proposals`; counts the objects of images without
        proposals as missed."""
        recall = functools.partial(_recall, measure=lvis_evaluation._evaluate_box_proposals)
        with overridden(lvis_evaluation, _evaluate_box_proposals=recall):
            super()._eval_box_proposals(predictions)


def build_evaluator(cfg: CfgNode, dataset: str, folder: str) -> DatasetEvaluator:
    """Build the evaluator of a test set: mask recall for a network of mask proposals, Pascal VOC's
    or LVIS's for their data sets, and otherwise COCO's. A panoptic network has its segments
    evaluated too, on panoptic data.

    Args:
        cfg: the merged config.
        dataset: the name of the test set, which is registered.
        folder: where predictions and ``results.json`` are written.

    Raises:
        UserError: if the annotations cannot be read, or LVIS's package is missing.
    """
    if issubclass(meta_architecture(cfg), MaskProposalNetwork):
        from .mask_recall import MaskRecallEvaluator  # other networks start without it

        return MaskRecallEvaluator(dataset, output_dir=folder)
    if issubclass(meta_architecture(cfg), SemanticSegmentor):
        return _build_semantic(cfg, dataset, folder)
    kind = MetadataCatalog.get(dataset).get("evaluator_type", "coco")
    if kind == "pascal_voc" and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        return ResultsWritingVOCEvaluator(dataset, output_dir=folder)
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    if kind == "lvis":  # ids count from 1, and not every class is annotated in every image
        most = max(limit, _LVIS_LIMIT) if limit >= 0 else sys.maxsize
        return ResultsWritingLVISEvaluator(dataset, folder, max_dets_per_image=most)
    is_panoptic = kind == _PANOPTIC and issubclass(meta_architecture(cfg), PanopticFPN)
    if kind != "coco" and not is_panoptic:
        text = "data set %s is registered for the evaluation %s: these are COCO's metrics"
        logger.warning(text, dataset, kind)
    if not 0 <= limit <= _COCO_LIMIT:
        logger.info(
            "AP on %s counts %s detections of an image (TEST.DETECTIONS_PER_IMAGE), where "
            "COCO's counts 100",
            *(dataset, "all" if limit < 0 else f"up to {limit}"),
        )
    rotated = rotated_key(cfg)
    if rotated and cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
        raise UserError(
            f"{rotated} {value_of(cfg, rotated)} proposes rotated boxes, whose recall Detectron2 "
            "does not measure: set DATASETS.TEST (), or build an evaluator of your own"
        )
    evaluator = ResultsWritingRotatedEvaluator if rotated else ResultsWritingCOCOEvaluator
    objects = evaluator(
        dataset,
        output_dir=folder,
        max_dets_per_image=max(limit, _COCO_LIMIT) if limit >= 0 else sys.maxsize,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )
    if not is_panoptic:
        return objects
    evaluators = [_build_semantic(cfg, dataset, folder), objects]
    if importlib.util.find_spec("panopticapi"):
        evaluators.append(PanopticQualityEvaluator(dataset, folder))
    else:
        logger.warning(
            "data set %s: PQ is left out, which the package panopticapi computes: python -m pip "
            "install git+https://github.com/cocodataset/panopticapi.git",
            dataset,
        )
    return PanopticEvaluator(evaluators, folder)


def _build_semantic(cfg: CfgNode, dataset: str, folder: str) -> ResultsWritingSemSegEvaluator:
    _check_semantic(cfg, dataset)
    try:
        return ResultsWritingSemSegEvaluator(dataset, output_dir=folder)
    except KeyError as error:
        raise UserError(
            f"data set {dataset} has images without {error}, their label map: give each its own"
        ) from error


def _check_semantic(cfg: CfgNode, dataset: str) -> None:
    """Refuse a test set whose metadata :class:`SemSegEvaluator` cannot work with."""
    metadata, asked = MetadataCatalog.get(dataset), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for key in ("stuff_classes", "ignore_label"):
        if metadata.get(key) is None:
            raise UserError(
                f"data set {dataset} has no {key}, which the evaluation of semantic segmentation "
                f"reads: set MetadataCatalog.get({dataset!r}).{key}"
            )
    if asked > len(metadata.stuff_classes):
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {asked}, and data set {dataset} has only "
            f"{len(metadata.stuff_classes)} stuff_classes: set it to that"
        )


def metric_names(cfg: CfgNode, dataset: str, evaluator: DatasetEvaluator) -> list[str] | None:
    """List the metrics that an evaluator reports, as Detectron2 logs them: ``bbox/AP``.

    Args:
        cfg: the merged config.
        dataset: the name of the test set, which is registered.
        evaluator: the evaluator of that test set.

    Returns:
        the names; None for somebody else's evaluator.
    """
    if not is_written_in(type(evaluator), "fpn_d2"):  # somebody's subclass may report more
        return None
    return evaluator.metric_names(cfg, dataset)


def write_results(output_dir: str, results: dict[str, dict[str, float]]) -> None:
    """Write an evaluation's ``{task: {metric: value}}`` to a folder's ``results.json``.

    A value of NaN, such as the AP of a size that no object has, becomes null.
    """
    numbers = {
        task: {name: None if math.isnan(value) else value for name, value in metrics.items()}
        for task, metrics in results.items()
    }
    os.makedirs(output_dir, exist_ok=True)
    write_json(os.path.join(output_dir, "results.json"), numbers)


def load_ground_truth(dataset: str) -> tuple[COCO, str]:
    """Load the annotations of a registered data set, and name the folder of its images.

    Raises:
        UserError: if the annotation file does not exist, or cannot be made from its folder.
    """
    metadata = MetadataCatalog.get(dataset)
    json_file = metadata.get("json_file", "")
    if not os.path.isfile(json_file):
        make_ready(dataset)
    if not json_file and metadata.get("evaluator_type") == "pascal_voc":
        raise UserError(
            f"data set {dataset} has Pascal VOC's annotations, and this reads COCO's: evaluate on "
            "its folder (datasets/README.md), which is converted, as VOC2007_test is"
        )
    if not json_file and is_semantic(dataset):
        raise UserError(
            f"data set {dataset} is for semantic segmentation and has no objects to look at: its "
            "metrics are in results.json"
        )
    if not os.path.isfile(json_file):
        raise UserError(
            f"data set {dataset} has no annotations here; set DETECTRON2_DATASETS to the folder "
            "that it lies in"
        )
    return AnnotationFile(json_file), metadata.image_root


@contextlib.contextmanager
def quiet_pycocotools() -> Iterator[None]:
    """Keep pycocotools from printing, and Detectron2's faster version of it from logging."""
    fast = logging.getLogger("detectron2.evaluation.fast_eval_api")
    with overridden(fast, disabled=True), contextlib.redirect_stdout(io.StringIO()):
        yield
