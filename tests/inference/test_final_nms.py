"""The last NMS of each kind of detector: the config's value, and that it can be changed."""

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.ops import box_iou

from fpn_d2.inference import final_nms_iou, set_final_nms

OPTS = [
    "MODEL.FPN.OUT_CHANNELS", 32, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.45, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
    "MODEL.RETINANET.NMS_THRESH_TEST", 0.35, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
]  # fmt: skip
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"]
CASCADE += ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
CASCADE += ["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE", 224]
KINDS = [
    ("Faster-RCNN/faster_rcnn_R_18_FPN", [], 0.45),
    ("Faster-RCNN/faster_rcnn_R_18_FPN", CASCADE, 0.45),
    ("RetinaNet/retinanet_R_18_FPN", [], 0.35),
    ("RetinaNet/retinanet_R_18_FPN", ["MODEL.META_ARCHITECTURE", "ClippingRetinaNet"], 0.35),
    ("RPN/rpn_R_18_FPN", [], 0.7),
]


def found_by(model):
    """Boxes (R, 4) and classes (R,) that a model finds in noise, with proposals all of class 0."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        ((found,),) = (result.values() for result in model([{"image": image}]))
    if found.has("proposal_boxes"):
        return found.proposal_boxes.tensor, torch.zeros(len(found))
    return found.pred_boxes.tensor, found.pred_classes


@pytest.mark.parametrize("row, opts, iou", KINDS)
def test_the_last_nms(row_config, row, opts, iou):
    cfg = row_config(f"quick/{row}", *OPTS, *opts)
    assert final_nms_iou(cfg) == iou
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    set_final_nms(model, 0.2, 100_000)
    boxes, classes = found_by(model)
    # An RPN's NMS is within a level, and a RetinaNet's boxes are clipped after it.
    if "Faster" in row or "ClippingRetinaNet" in opts:
        ious = box_iou(boxes, boxes).fill_diagonal_(0)
        assert float(ious[classes[:, None] == classes].max()) <= 0.2 + 1e-4
    set_final_nms(model, 1.0)
    assert 1 < len(boxes) < len(found_by(model)[0])
    set_final_nms(model, 1.0, 7)
    assert len(found_by(model)[0]) == 7
