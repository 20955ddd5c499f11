"""The last NMS of each kind of detector: where it starts, and that it can be changed."""

import pytest
import torch
from detectron2.modeling import RetinaNet, build_model
from torchvision.ops import box_iou

from fpn_d2.inference import final_nms_iou, set_final_nms

SMALL = ["MODEL.FPN.OUT_CHANNELS", 32, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64]
HEAD = ["MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.45, "MODEL.RETINANET.NMS_THRESH_TEST", 0.35]
KINDS = [
    ("Faster-RCNN/faster_rcnn_R_18_FPN", [], 0.45),
    ("Faster-RCNN/faster_rcnn_R_18_FPN", ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], 0.45),
    ("RetinaNet/retinanet_R_18_FPN", [], 0.35),
    ("RetinaNet/retinanet_R_18_FPN", ["MODEL.META_ARCHITECTURE", "ClippingRetinaNet"], 0.35),
    ("RPN/rpn_R_18_FPN", [], 0.7),
]


@pytest.mark.parametrize("row, opts, iou", KINDS)
def test_it_is_that_of_the_head_that_classifies(row_config, row, opts, iou):
    assert final_nms_iou(row_config(f"quick/{row}", *HEAD, *opts)) == iou


def found_boxes(model, kind):
    with torch.no_grad():
        image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
        (result,) = model([{"image": image}])
    found = result["proposals" if kind == "RPN" else "instances"]
    if kind == "RPN":
        return found.proposal_boxes.tensor, torch.zeros(len(found))
    return found.pred_boxes.tensor, found.pred_classes


@pytest.mark.parametrize("row, opts, iou", KINDS)
def test_it_can_be_changed(row_config, row, opts, iou):
    scores = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0]
    cascade = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "Cascade" in "".join(map(str, opts))
    torch.manual_seed(0)
    model = build_model(row_config(f"quick/{row}", *SMALL, *scores, *cascade, *opts)).eval()
    kind = row.partition("/")[0]
    set_final_nms(model, 0.2)
    boxes, classes = found_boxes(model, kind)
    if type(model) is not RetinaNet:  # which clips its boxes afterwards, so they overlap more
        ious = box_iou(boxes, boxes).fill_diagonal_(0)
        assert len(boxes) > 1
        assert float(ious[classes[:, None] == classes].max()) <= 0.2 + 1e-4
    set_final_nms(model, 0.2, 100_000)
    fewer = len(found_boxes(model, kind)[0])
    set_final_nms(model, 1.0, 100_000)
    assert fewer < len(found_boxes(model, kind)[0])
    set_final_nms(model, 1.0, 7)
    assert len(found_boxes(model, kind)[0]) == 7
