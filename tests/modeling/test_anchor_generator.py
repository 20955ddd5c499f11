"""Anchors of other code bases: torchvision's by itself, Detectron's by its published table."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator
from torchvision.models.detection import faster_rcnn, retinanet
from torchvision.models.detection.image_list import ImageList

FASTER, RETINA = "torchvision/faster_rcnn_R_50_FPN", "torchvision/retinanet_R_50_FPN"


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


def test_the_grid_is_stretched_where_a_side_is_odd(row_config):
    """P5 of 96 pixels has 3 cells and P6 has 2, 96 / 2 = 48 pixels apart."""
    generator = generator_of(row_config(FASTER), [4, 8, 16, 32, 64])
    features = [torch.zeros(1, 1, side, side) for side in (24, 12, 6, 3, 2)]
    centres = generator(features)[4].get_centers()
    assert centres[:, 0].unique().tolist() == [0, 48]


def test_detectrons_anchors_at_stride_16(row_config):
    """The table of Faster R-CNN's MATLAB code, whose boxes count from 1 and end with a pixel that
    is theirs: x0 - 1, y0 - 1, x1, y1 in coordinates."""
    table = [
        (-83, -39, 100, 56),
        (-175, -87, 192, 104),
        (-359, -183, 376, 200),
        (-55, -55, 72, 72),
        (-119, -119, 136, 136),
        (-247, -247, 264, 264),
        (-35, -79, 52, 96),
        (-79, -167, 96, 184),
        (-167, -343, 184, 360),
    ]
    sizes = "MODEL.ANCHOR_GENERATOR.SIZES"
    cfg = row_config("maskrcnn_benchmark/faster_rcnn_R_50_C4", sizes, "[[128, 256, 512]]")
    (boxes,) = generator_of(cfg, [16])([torch.zeros(1, 1, 1, 1)])
    expected = torch.tensor(table) - torch.tensor([1, 1, 0, 0])
    assert torch.equal(boxes.tensor, expected.float())


def test_detectrons_anchors_on_the_finest_level(row_config):
    """4 x 4 at ratio 1:2 is 6 x 3, and at 2:1 3 x 6; 32 is 8 times 4."""
    cfg = row_config("maskrcnn_benchmark/faster_rcnn_R_50_FPN")
    generator = generator_of(cfg, [4, 8, 16, 32, 64])
    features = [torch.zeros(1, 1, side, side) for side in (16, 8, 4, 2, 1)]
    boxes = generator(features)[0].tensor[:3]
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.tolist() == [[48, 24], [32, 32], [24, 48]]
    assert ((boxes[:, 2:] + boxes[:, :2]) / 2).unique().tolist() == [2]
