"""Which evaluator measures a test set, and the names of the metrics that it will report."""

import logging
import sys
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator

from ..modeling import MaskProposalNetwork
from ..modeling.fpn import is_written_in, meta_architecture
from ..utils.progress import working
from .coco_evaluation import AP_NAMES, ResultsWritingCOCOEvaluator, write_results

logger = logging.getLogger(__name__)

_COCO_LIMIT = 100  # so many detections of an image count for COCO's AP


class ResultsWritingVOCEvaluator(PascalVOCDetectionEvaluator):
    """A :class:`PascalVOCDetectionEvaluator` that also writes its metrics as ``results.json``."""

    def __init__(self, dataset_name: str, output_dir: str):
        """See :class:`PascalVOCDetectionEvaluator`; ``output_dir`` is the folder of the file."""
        super().__init__(dataset_name)
        self._output_dir = output_dir

    def evaluate(self) -> dict[str, Any] | None:
        """See :meth:`PascalVOCDetectionEvaluator.evaluate`."""
        with working("computing Pascal VOC's metrics"):
            results = super().evaluate()
        if results:  # only the main process has results
            write_results(self._output_dir, results)
        return results

    def metric_names(self, cfg: CfgNode, dataset: str) -> list[str]:
        """See :func:`metric_names`."""
        return [f"bbox/{name}" for name in AP_NAMES[:3]]


def build_evaluator(cfg: CfgNode, dataset: str, folder: str) -> DatasetEvaluator:
    """Build the evaluator of a test set: mask recall for a network of mask proposals, Pascal VOC's
    for its data sets, and otherwise COCO's.

    Args:
        cfg: the merged config.
        dataset: the test set, which is registered.
        folder: where predictions and ``results.json`` are written.
    """
    if issubclass(meta_architecture(cfg), MaskProposalNetwork):
        from .mask_recall import MaskRecallEvaluator  # other networks start without it

        return MaskRecallEvaluator(dataset, output_dir=folder)
    kind = MetadataCatalog.get(dataset).get("evaluator_type", "coco")
    if kind == "pascal_voc" and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        return ResultsWritingVOCEvaluator(dataset, output_dir=folder)
    if kind != "coco":
        text = "data set %s is registered for the evaluation %s: these are COCO's metrics"
        logger.warning(text, dataset, kind)
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    if not 0 <= limit <= _COCO_LIMIT:
        logger.info(
            "AP on %s counts %s detections of an image (TEST.DETECTIONS_PER_IMAGE), where "
            "COCO's counts 100",
            *(dataset, "all" if limit < 0 else f"up to {limit}"),
        )
    return ResultsWritingCOCOEvaluator(
        dataset,
        output_dir=folder,
        max_dets_per_image=max(limit, _COCO_LIMIT) if limit >= 0 else sys.maxsize,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )


def metric_names(cfg: CfgNode, dataset: str, evaluator: DatasetEvaluator) -> list[str] | None:
    """List the metrics that an evaluator reports, as Detectron2 logs them: ``bbox/AP``.

    Args:
        cfg: the merged config.
        dataset: the test set, which is registered.
        evaluator: of that test set.

    Returns:
        the names; None for somebody else's evaluator.
    """
    kind = type(evaluator)  # somebody's subclass may report more
    if not is_written_in(kind, "fpn_d2") or not hasattr(kind, "metric_names"):
        return None
    return evaluator.metric_names(cfg, dataset)
