"""Columns of the classifier that are no class: part of the softmax, never found."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from fpn_d2 import UserError
from fpn_d2.modeling import UnusedClassesOutputLayers

ROW = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
UNUSED = "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES"


@pytest.fixture
def predictor(row_config):
    torch.manual_seed(0)
    cfg = row_config(ROW, UNUSED, 3, "MODEL.ROI_HEADS.NUM_CLASSES", 2)
    layers = UnusedClassesOutputLayers(cfg, ShapeSpec(channels=8))
    layers.cls_score.weight.data.normal_()
    return layers


def test_scores_of_classes_are_those_of_the_whole_softmax(predictor):
    features = torch.randn(5, 8)
    assert predictor.cls_score.weight.shape == (2 + 3 + 1, 8)
    assert predictor.bbox_pred.weight.shape == (2 * 4, 8)
    whole = torch.nn.functional.linear(
        features, predictor.cls_score.weight, predictor.cls_score.bias
    ).softmax(dim=1)
    proposals = Instances((9, 9), proposal_boxes=Boxes(torch.zeros(5, 4)))
    (found,) = predictor.predict_probs(predictor(features), [proposals])
    expected = torch.cat([whole[:, :2], whole[:, 2:].sum(dim=1, keepdim=True)], dim=1)
    torch.testing.assert_close(found, expected)


def test_settings_without_effect_are_refused(row_config):
    with pytest.raises(UserError, match="NUM_UNUSED_CLASSES is -1; give 0 or more"):
        row_config(ROW, UNUSED, -1)
    with pytest.raises(UserError, match="UNUSED_CLASSES has no effect on .* C4ROIHeads; set it"):
        row_config("Faster-RCNN/faster_rcnn_R_50_C4", UNUSED, 3)
