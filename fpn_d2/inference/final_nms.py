"""The last NMS of a detector, which decides between boxes that overlap."""

from detectron2.config import CfgNode
from detectron2.modeling import RetinaNet
from torch import nn

from ..config_checks import class_head_key


def final_nms_iou(cfg: CfgNode) -> float:
    """The IoU above which a config's detector drops the worse of two boxes, 0 to 1.

    Of a detector with classes it is ``NMS_THRESH_TEST`` of the head that classifies, else that of
    the RPN.
    """
    key = class_head_key(cfg)
    if key is None:
        return cfg.MODEL.RPN.NMS_THRESH
    section = cfg.MODEL.ROI_HEADS if "ROI_HEADS" in key else cfg.MODEL.RETINANET
    return section.NMS_THRESH_TEST


def set_final_nms(model: nn.Module, iou: float, most: int | None = None) -> None:
    """Change the last NMS of a detector in place.

    Args:
        model: a detector of Detectron2's form, not a :class:`PreparedModel`. One that ends in no
            NMS, such as a network of mask proposals, stays as it is.
        iou: the IoU above which the worse of two boxes is dropped, 0 to 1.
        most: how many boxes of an image are kept; None leaves that number as it is.
    """
    head = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head  # the last stage of a cascade
    rpn = getattr(model, "proposal_generator", None)
    if hasattr(head, "test_nms_thresh"):
        head.test_nms_thresh = iou
        head.test_topk_per_image = head.test_topk_per_image if most is None else most
    elif isinstance(model, RetinaNet):
        model.test_nms_thresh = iou
        model.max_detections_per_image = model.max_detections_per_image if most is None else most
    elif hasattr(rpn, "nms_thresh"):
        rpn.nms_thresh = iou
        if most is not None:
            rpn.post_nms_topk = {**rpn.post_nms_topk, False: most}
