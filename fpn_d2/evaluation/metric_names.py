"""The names of the metrics that an evaluation will report, before there are any results."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .coco_evaluation import ResultsWritingCOCOEvaluator
from .mask_recall import PARAMS, SIZES, MaskRecallEvaluator
from .voc_evaluation import ResultsWritingVOCEvaluator

_AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")


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
    if kind is MaskRecallEvaluator:
        recalls = [f"AR{size}@{limit}" for size in SIZES for limit in PARAMS.maxDets]
        return [f"mask_proposals/{name}" for name in (*recalls, "masks_per_second")]
    if kind is ResultsWritingVOCEvaluator:
        return [f"bbox/{name}" for name in _AP[:3]]
    if kind is not ResultsWritingCOCOEvaluator:
        return None
    if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
        recalls = [f"AR{size}@{limit}" for limit in (100, 1000) for size in SIZES]
        return [f"box_proposals/{name}" for name in (*recalls, "AR@10", "AR@30", "AR@300")]
    classes = MetadataCatalog.get(dataset).get("thing_classes") or []
    each = [f"AP-{name}" for name in classes] if len(classes) > 1 else []
    names = [f"bbox/{name}" for name in (*_AP, *each)]
    if cfg.MODEL.MASK_ON:
        names += [f"segm/{name}" for name in (*_AP, *each)]
    if cfg.MODEL.KEYPOINT_ON:
        names += [f"keypoints/{name}" for name in _AP if name != "APs"]
    return names
