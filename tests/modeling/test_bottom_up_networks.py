"""The ResNet of basic blocks in any width, and RegNet: as published, cut short, frozen."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_resnet_backbone
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from fpn_d2 import UserError
from fpn_d2.modeling import build_basic_resnet_backbone, build_regnet_backbone

ROW = "quick/RPN/rpn_R_18_FPN"
PIXELS = ShapeSpec(channels=3)


def build_resnet(row_config, *opts):
    return build_basic_resnet_backbone(row_config(ROW, *opts), PIXELS)


@pytest.mark.parametrize("depth, norm", [(18, "GN"), (34, "BN")])
def test_at_64_channels_it_is_detectron2s(row_config, depth, norm):
    opts = ["MODEL.RESNETS.DEPTH", depth, "MODEL.BACKBONE.FREEZE_AT", 3]
    opts += ["MODEL.RESNETS.NORM", norm]
    ours = build_resnet(row_config, *opts)
    theirs = build_resnet_backbone(row_config(ROW, *opts), PIXELS)
    assert str(ours) == str(theirs)
    theirs.load_state_dict(ours.state_dict())
    frozen = {name for name, weight in theirs.named_parameters() if not weight.requires_grad}
    assert {n for n, weight in ours.named_parameters() if not weight.requires_grad} == frozen
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, expected = ours.eval()(x), theirs.eval()(x)
    assert found.keys() == expected.keys()
    assert all(map(torch.equal, found.values(), expected.values()))


def test_its_width_is_that_of_the_config(row_config):
    ours = ["MODEL.FPN.BOTTOM_UP", "build_basic_resnet_backbone"]
    shapes = build_resnet(row_config, *ours, "MODEL.RESNETS.RES2_OUT_CHANNELS", 24).output_shape()
    found = {name: (shape.channels, shape.stride) for name, shape in shapes.items()}
    assert found == {"res2": (24, 4), "res3": (48, 8), "res4": (96, 16), "res5": (192, 32)}


def test_stages_beyond_the_last_output_are_left_out(row_config):
    network = build_resnet(row_config, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res4"])
    assert {name.split(".")[0] for name in network.state_dict()} == {"stem", "res2", "res3", "res4"}


def test_a_depth_of_bottlenecks_is_refused(row_config):
    with pytest.raises(UserError, match="DEPTH is 50, which has no basic blocks"):
        build_resnet(row_config, "MODEL.RESNETS.DEPTH", 50)


# --- RegNet


STAGES = ["s1", "s2", "s3", "s4"]
REGNET = ["MODEL.FPN.BOTTOM_UP", "build_regnet_backbone", "MODEL.FPN.IN_FEATURES", STAGES]


def build_regnet(row_config, *opts):
    return build_regnet_backbone(row_config(ROW, *opts), PIXELS)


def test_the_defaults_are_regnetx_400mf(row_config):
    regnet = build_regnet(row_config)
    # "Designing Network Design Spaces", Fig. 16: REGNETX-400MF, d_i = 1 2 7 12, w_i = 32 64 160 384
    assert [len(list(stage.children())) for stage, _ in regnet.stages_and_names] == [1, 2, 7, 12]
    shapes = {name: (s.channels, s.stride) for name, s in regnet.output_shape().items()}
    assert shapes == {"s1": (32, 4), "s2": (64, 8), "s3": (160, 16), "s4": (384, 32)}


def test_every_number_of_the_config_reaches_the_network(row_config):
    numbers = {"depth": 13, "w_a": 20.0, "w_0": 32, "w_m": 2.2, "group_width": 8, "se_ratio": 0.25}
    opts = [
        word for key, value in numbers.items() for word in (f"MODEL.REGNETS.{key.upper()}", value)
    ]
    opts += ["MODEL.REGNETS.NORM", "BN", "MODEL.REGNETS.OUT_FEATURES", ["s2"]]
    ours = build_regnet(row_config, *opts)
    stock = RegNet(
        stem_class=SimpleStem,
        stem_width=32,
        block_class=ResBottleneckBlock,
        norm="BN",
        out_features=["s2"],
        **numbers,
    )
    stages = ("stem", "s1", "s2")  # ours ends with the last stage that is asked for
    expected = {n: p.shape for n, p in stock.named_parameters() if n.split(".")[0] in stages}
    assert {n: p.shape for n, p in ours.named_parameters() if n.split(".")[0] in stages} == expected
    assert str(ours.s2) == str(stock.s2)
    assert ours.output_shape() == stock.output_shape()
    assert [name for _, name in ours.stages_and_names] == ["s1", "s2"]  # those that it runs


@pytest.mark.parametrize(
    "row, opts",
    [
        *(("FPN", []), ("bottom_up", []), ("top_down", []), ("P2", [])),
        ("P2", ["MODEL.FPN.TOP_DOWN", False, "MODEL.BACKBONE.FREEZE_AT", 0]),  # it needs only s1
    ],
)
def test_regnet_carries_the_pyramid(row_config, row, opts):
    neck = build_backbone(row_config(f"quick/RPN/rpn_R_18_{row}", *REGNET, *opts))
    levels = neck(torch.randn(1, 3, 64, 96))
    expected = {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2)}
    expected = {"p2": expected["p2"]} if row == "P2" else expected
    assert {name: tuple(p.shape[2:]) for name, p in levels.items()} == expected
    assert all(p.shape[1] == 64 for p in levels.values())
    sum(p.sum() for p in levels.values()).backward()
    without = [n for n, p in neck.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    stages = {name for name, _ in neck.bottom_up.named_children()}
    assert stages == {"stem", *STAGES[: 1 if opts else 4]}


@pytest.mark.parametrize("freeze_at, frozen", [(0, set()), (1, {"stem"}), (2, {"stem", "s1"})])
def test_freeze_at_counts_the_stem_and_the_stages(row_config, freeze_at, frozen):
    opts = ["MODEL.BACKBONE.FREEZE_AT", freeze_at, "MODEL.REGNETS.NORM", "BN"]
    regnet = build_regnet(row_config, *opts)
    parts = {name for name, p in regnet.named_parameters() if p.requires_grad}
    assert {"stem", *STAGES} - {name.split(".")[0] for name in parts} == frozen
