"""Components of other code bases' models: anchors, unused columns, clipping before NMS."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.structures import Boxes, Instances
from torchvision.models.detection import faster_rcnn, retinanet
from torchvision.models.detection.image_list import ImageList

from fpn_d2.checkpoint.foreign.components import TorchvisionROIHeads, UnusedClassesOutputLayers

FASTER, RETINA = "torchvision/faster_rcnn_R_50_FPN", "torchvision/retinanet_R_50_FPN"
QUICK_FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
UNUSED = "MODEL.ROI_BOX_HEAD.NUM_UNUSED_CLASSES"


# --- anchors


def generator_of(cfg, strides):
    return build_anchor_generator(cfg, [ShapeSpec(stride=stride) for stride in strides])


@pytest.mark.parametrize(
    ("row", "theirs", "finest"),
    [(FASTER, faster_rcnn._default_anchorgen(), 2), (RETINA, retinanet._default_anchorgen(), 3)],
)
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (224, 288), (32, 544)])
def test_anchors_are_torchvisions_at_sizes_that_do_not_halve(row_config, row, theirs, finest, size):
    sides = [[-(-side // 2**k) for side in size] for k in range(finest, finest + 5)]
    features = [torch.zeros(1, 1, *side) for side in sides]
    generator = generator_of(row_config(row), [2**k for k in range(finest, finest + 5)])
    found = torch.cat([boxes.tensor for boxes in generator(features)])
    (expected,) = theirs(ImageList(torch.zeros(1, 3, *size), [size]), features)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_grid_is_stretched_where_a_side_is_odd(row_config, offset):
    """P5 of 96 pixels has 3 cells and P6 has 2, 96 / 2 = 48 pixels apart."""
    cfg = row_config(FASTER, "MODEL.ANCHOR_GENERATOR.OFFSET", offset)
    generator = generator_of(cfg, [4, 8, 16, 32, 64])
    features = [torch.zeros(1, 1, side, side) for side in (24, 12, 6, 3, 2)]
    centres = generator(features)[4].get_centers()
    assert centres[:, 0].unique().tolist() == [48 * offset, 48 * (1 + offset)]


def test_detectrons_anchors_at_stride_16(row_config):
    """Faster R-CNN's MATLAB code has this table. Its boxes count from 1 and include their last
    pixel, so in coordinates they are x0 - 1, y0 - 1, x1, y1."""
    table = [
        *((-83, -39, 100, 56), (-175, -87, 192, 104), (-359, -183, 376, 200)),
        *((-55, -55, 72, 72), (-119, -119, 136, 136), (-247, -247, 264, 264)),
        *((-35, -79, 52, 96), (-79, -167, 96, 184), (-167, -343, 184, 360)),
    ]
    sizes = "MODEL.ANCHOR_GENERATOR.SIZES"
    cfg = row_config("maskrcnn_benchmark/faster_rcnn_R_50_C4", sizes, "[[128, 256, 512]]")
    (boxes,) = generator_of(cfg, [16])([torch.zeros(1, 1, 1, 1)])
    expected = torch.tensor(table) - torch.tensor([1, 1, 0, 0])
    assert torch.equal(boxes.tensor, expected.float())


def test_detectrons_anchors_on_the_finest_level(row_config):
    """A 4 x 4 box is 6 x 3 at ratio 1:2 and 3 x 6 at 2:1, and 32 is 8 times 4."""
    cfg = row_config("maskrcnn_benchmark/faster_rcnn_R_50_FPN")
    generator = generator_of(cfg, [4, 8, 16, 32, 64])
    features = [torch.zeros(1, 1, side, side) for side in (16, 8, 4, 2, 1)]
    boxes = generator(features)[0].tensor[:3]
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.tolist() == [[48, 24], [32, 32], [24, 48]]
    assert ((boxes[:, 2:] + boxes[:, :2]) / 2).unique().tolist() == [2]


# --- columns of the classifier that are no class: part of the softmax, never found


def test_scores_of_classes_are_those_of_the_whole_softmax(row_config):
    torch.manual_seed(0)
    cfg = row_config(QUICK_FASTER, UNUSED, 3, "MODEL.ROI_HEADS.NUM_CLASSES", 2)
    predictor = UnusedClassesOutputLayers(cfg, ShapeSpec(channels=8))
    predictor.cls_score.weight.data.normal_()
    features = torch.randn(5, 8)
    assert predictor.cls_score.weight.shape == (2 + 3 + 1, 8)
    assert predictor.bbox_pred.weight.shape == (2 * 4, 8)
    whole = predictor.cls_score(features).softmax(dim=1)
    proposals = Instances((9, 9), proposal_boxes=Boxes(torch.zeros(5, 4)))
    (found,) = predictor.predict_probs(predictor(features), [proposals])
    expected = torch.cat([whole[:, :2], whole[:, 2:].sum(dim=1, keepdim=True)], dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("heads", ["LevelROIHeads", "FPNROIHeads", "TorchvisionROIHeads"])
def test_the_roi_heads_have_them_under_the_names_of_older_configs_too(row_config, heads):
    """Version 0.1 had them in its own RoI heads, and its config.yaml says so."""
    small = ["MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.ROI_HEADS.NUM_CLASSES", 2]
    cfg = row_config(QUICK_FASTER, "MODEL.ROI_HEADS.NAME", heads, UNUSED, 1, *small)
    model = build_model(cfg.clone())
    assert isinstance(model.roi_heads, TorchvisionROIHeads)
    assert model.roi_heads.box_predictor.cls_score.weight.shape == (2 + 1 + 1, 8)


# --- boxes are clipped before NMS, so that it sees the boxes that are returned


@pytest.mark.parametrize(("name", "left"), [("RetinaNet", 2), ("ClippingRetinaNet", 1)])
def test_nms_sees_clipped_boxes(row_config, name, left):
    """Two boxes cover the same 10 x 5 pixels of a 10 x 10 image, but one of them goes on outside
    and is 10 x 20. Their IoU is 1/4 before clipping and 1 after it."""
    model = build_model(
        row_config("quick/RetinaNet/retinanet_R_18_FPN", "MODEL.META_ARCHITECTURE", name).clone()
    ).eval()
    anchors = [Boxes(torch.tensor([[0.0, 5.0, 10.0, 10.0], [0.0, 5.0, 10.0, 25.0]]))]
    scores = torch.zeros(2, model.num_classes)
    scores[:, 0] = torch.tensor([0.9, 0.8])
    found = model.inference_single_image(anchors, [scores], [torch.zeros(2, 4)], (10, 10))
    assert len(found) == left
