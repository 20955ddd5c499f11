"""Boxes are clipped before NMS, so that it sees the boxes that are returned."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes

ROW = "quick/RetinaNet/retinanet_R_18_FPN"


@pytest.mark.parametrize(("name", "left"), [("RetinaNet", 2), ("ClippingRetinaNet", 1)])
def test_nms_sees_clipped_boxes(row_config, name, left):
    """Of a 10 x 10 image two boxes see the same 10 x 5 pixels; one of them is 10 x 20 with what
    is outside, so that their IoU is 1/4 before clipping and 1 after it."""
    model = build_model(row_config(ROW, "MODEL.META_ARCHITECTURE", name).clone()).eval()
    anchors = [Boxes(torch.tensor([[0.0, 5.0, 10.0, 10.0], [0.0, 5.0, 10.0, 25.0]]))]
    scores = torch.zeros(2, model.num_classes)
    scores[:, 0] = torch.tensor([0.9, 0.8])
    found = model.inference_single_image(anchors, [scores], [torch.zeros(2, 4)], (10, 10))
    assert len(found) == left
