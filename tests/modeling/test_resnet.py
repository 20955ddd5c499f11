"""The ResNet of basic blocks in any width: Detectron2's own at 64, narrower, cut short, frozen."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_resnet_backbone

from fpn_d2 import UserError
from fpn_d2.modeling import build_basic_resnet_backbone

ROW = "quick/RPN/rpn_R_18_FPN"
PIXELS = ShapeSpec(channels=3)


def build(row_config, *opts):
    return build_basic_resnet_backbone(row_config(ROW, *opts), PIXELS)


@pytest.mark.parametrize("depth", [18, 34])
def test_at_64_channels_it_is_detectron2s(row_config, depth):
    opts = ["MODEL.RESNETS.DEPTH", depth, "MODEL.BACKBONE.FREEZE_AT", 3]
    ours = build(row_config, *opts)
    theirs = build_resnet_backbone(row_config(ROW, *opts), PIXELS)
    theirs.load_state_dict(ours.state_dict())
    frozen = {name for name, weight in theirs.named_parameters() if not weight.requires_grad}
    assert {n for n, weight in ours.named_parameters() if not weight.requires_grad} == frozen
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, expected = ours.eval()(x), theirs.eval()(x)
    assert found.keys() == expected.keys()
    assert all(map(torch.equal, found.values(), expected.values()))


def test_its_width_is_that_of_the_config(row_config):
    ours = ["MODEL.FPN.BOTTOM_UP", "build_basic_resnet_backbone"]
    shapes = build(row_config, *ours, "MODEL.RESNETS.RES2_OUT_CHANNELS", 24).output_shape()
    found = {name: (shape.channels, shape.stride) for name, shape in shapes.items()}
    assert found == {"res2": (24, 4), "res3": (48, 8), "res4": (96, 16), "res5": (192, 32)}


def test_stages_beyond_the_last_output_are_left_out(row_config):
    network = build(row_config, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res4"])
    assert {name.split(".")[0] for name in network.state_dict()} == {"stem", "res2", "res3", "res4"}


def test_the_demos_channels_are_half_of_the_rows(row_config):
    demo, row = (build_backbone(row_config(f"quick/{name}")).bottom_up.output_shape() for name in (
        "demo", "Faster-RCNN/faster_rcnn_R_18_FPN"))  # fmt: skip
    assert {n: 2 * s.channels for n, s in demo.items()} == {n: s.channels for n, s in row.items()}


def test_a_depth_of_bottlenecks_is_refused(row_config):
    with pytest.raises(UserError, match="DEPTH is 50, which has no basic blocks"):
        build(row_config, "MODEL.RESNETS.DEPTH", 50)
