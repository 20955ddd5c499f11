"""The neck against Detectron2's own, and every level of every variant against its closed form."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    ProposalNetwork,
    StandardROIHeads,
    build_backbone,
)
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.proposal_generator import RPN
from torch import nn

from fpn_d2 import UserError
from fpn_d2.config import changed
from fpn_d2.modeling import FeaturePyramid

FPN_ROW = "quick/RPN/rpn_R_18_FPN"
FASTER = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
MASKS = "quick/Mask-Proposals/mask_R_18_dual"
BOTH, BOTTOM_UP, TOP_DOWN = (True, True), (False, True), (True, False)  # TOP_DOWN, LATERAL
PATHS = [BOTH, BOTTOM_UP, TOP_DOWN]
PATH_NAMES = ["both", "bottom_up", "top_down"]
FOUR_CONVS = ["MODEL.FPN.BOTTOM_UP", "FourConvs"]
# A ResNet with a hundredth of the weights; Detectron2 makes a ResNet-18 in only one width.
NARROW = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
R_18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
TOP_BLOCKS = {"maxpool": ["p6"], "p6p7_c5": ["p6", "p7"], "p6p7_p5": ["p6", "p7"], "": []}


@BACKBONE_REGISTRY.register()
class FourConvs(Backbone):
    """Somebody else's bottom-up network, in a few hundred weights: one conv for each stage."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        super().__init__()
        self._out_features = list(cfg.MODEL.RESNETS.OUT_FEATURES)
        names = ["res2", "res3", "res4", "res5"]
        names = names[: 1 + max(names.index(name) for name in self._out_features)]
        channels = [input_shape.channels, 4, 5, 6, 7]
        for i, name in enumerate(names):
            first = 4 if i == 0 else 2
            self.add_module(name, nn.Conv2d(channels[i], channels[i + 1], first, first))
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(names)}
        self._out_feature_channels = {name: channels[i + 1] for i, name in enumerate(names)}

    def forward(self, x):
        features = {}
        for name, conv in self.named_children():
            features[name] = x = conv(x)
        return {name: features[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
class WithGlobalFeature(FourConvs):
    """Outputs a feature of the whole image too, which has no stride."""

    def output_shape(self):
        return {**super().output_shape(), "pooled": ShapeSpec(channels=7)}


@pytest.fixture
def neck_config(row_config):
    """A config of the neck alone: what reads its levels is left out."""

    def config(path=BOTH, out_features=(), top_block="maxpool", *opts) -> CfgNode:
        return row_config(
            FPN_ROW,
            *("MODEL.META_ARCHITECTURE", "NeckAlone"),
            *("MODEL.FPN.TOP_DOWN", path[0], "MODEL.FPN.LATERAL", path[1]),
            *("MODEL.FPN.OUT_FEATURES", list(out_features), "MODEL.FPN.TOP_BLOCK", top_block),
            *NARROW,
            *opts,
        )

    return config


def build_neck(cfg: CfgNode) -> FeaturePyramid:
    """Build the neck in eval mode, with biases and norms that are not at their neutral values."""
    torch.manual_seed(0)
    neck = build_backbone(cfg).eval()
    for name, parameter in neck.named_parameters():
        if not name.startswith("bottom_up") and parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.5)
    return neck


def image(height: int = 64, width: int = 32, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def conv_of(conv: nn.Module, x: torch.Tensor, **kwargs) -> torch.Tensor:
    return F.conv2d(x, conv.weight, conv.bias, **kwargs)


def closed_form(neck: FeaturePyramid, cfg: CfgNode, level: int, stages: dict) -> torch.Tensor:
    """Compute P_level from the neck's weights and bottom-up features {k: C_k}, as Sec. 3 says."""
    fpn, top = cfg.MODEL.FPN, max(stages)

    def merged(k: int) -> torch.Tensor:
        if k < top and fpn.TOP_DOWN:
            above = merged(k + 1).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            if not fpn.LATERAL:
                return above
            both = conv_of(getattr(neck, f"fpn_lateral{k}"), stages[k]) + above
            return both / 2 if fpn.FUSE_TYPE == "avg" else both
        return conv_of(getattr(neck, f"fpn_lateral{k}"), stages[k])

    def output(k: int) -> torch.Tensor:
        return conv_of(getattr(neck, f"fpn_output{k}"), merged(k), padding=1)

    if level <= top:
        return output(level)
    if fpn.TOP_BLOCK == "maxpool":  # footnote 2: stride-two subsampling
        return output(top)[:, :, ::2, ::2]
    source = stages[top] if fpn.TOP_BLOCK == "p6p7_c5" else output(top)
    p6 = conv_of(neck.top_block.p6, source, stride=2, padding=1)
    return p6 if level == top + 1 else conv_of(neck.top_block.p7, p6.relu(), stride=2, padding=1)


def check_closed_form(cfg: CfgNode, x: torch.Tensor) -> FeaturePyramid:
    neck = build_neck(cfg)
    fpn = cfg.MODEL.FPN
    strides = {name: shape.stride for name, shape in neck.bottom_up.output_shape().items()}
    with torch.no_grad():
        stages = {strides[n].bit_length() - 1: c for n, c in neck.bottom_up(x).items()}
        stages = {k: c for k, c in stages.items() if f"res{k}" in fpn.IN_FEATURES}
        levels = neck(x)
        last = int(fpn.IN_FEATURES[-1][-1])
        extra = [f"p{last + 1 + i}" for i in range(len(TOP_BLOCKS[fpn.TOP_BLOCK]))]
        every = [f"p{name[-1]}" for name in fpn.IN_FEATURES] + extra
        # order: fine to coarse, whatever the order in the config
        assert list(levels) == [p for p in every if p in (fpn.OUT_FEATURES or every)]
        for name, level in levels.items():
            torch.testing.assert_close(level, closed_form(neck, cfg, int(name[1:]), stages))
    return neck


# --- all defaults: Detectron2's own module


STOCK = {
    "defaults": [],
    "GN": ["MODEL.FPN.NORM", "GN"],
    "BN": ["MODEL.FPN.NORM", "BN"],
    "avg": ["MODEL.FPN.FUSE_TYPE", "avg"],
    "p6p7_c5": ["MODEL.FPN.TOP_BLOCK", "p6p7_c5"],
    "three stages": ["MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]],
}


def ours_and_stock(neck_config, opts):
    cfg = neck_config(BOTH, (), "maxpool", *opts)
    retinanet = "retinanet_" if "p6p7_c5" in opts else ""
    stock = {"MODEL.BACKBONE.NAME": f"build_{retinanet}resnet_fpn_backbone"}
    necks = []
    for config in (cfg, changed(cfg, stock)):
        torch.manual_seed(3)
        necks.append(build_backbone(config))
    return necks


@pytest.mark.parametrize("opts", STOCK.values(), ids=STOCK)
def test_defaults_have_detectron2s_parameters_and_levels_bit_for_bit(neck_config, opts):
    ours, stock = ours_and_stock(neck_config, opts)
    a, b = ours.state_dict(), stock.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in b)  # under the same seed
    with torch.no_grad():
        for tensor in ours.parameters():
            tensor.add_(0.01)  # neither zero biases nor the seed's weights
    stock.load_state_dict(ours.state_dict())
    for training in (False, True):  # the norms differ
        a, b = ours.train(training)(image()), stock.train(training)(image())
        assert list(a) == list(b)
        assert all(torch.equal(a[name], b[name]) for name in b)
    assert ours.output_shape() == stock.output_shape()
    assert ours.size_divisibility == stock.size_divisibility == 32
    assert ours.padding_constraints == stock.padding_constraints


# --- every level of every variant


@pytest.mark.parametrize("top_block", TOP_BLOCKS, ids=lambda name: name or "none")
@pytest.mark.parametrize("path", PATHS, ids=PATH_NAMES)
def test_every_level_equals_its_closed_form(neck_config, path, top_block):
    # ("p5", "p3"): the order in the config does not count
    for levels in [(), ("p2",), ("p5", "p3"), ("p2", *TOP_BLOCKS[top_block])]:
        check_closed_form(neck_config(path, levels, top_block, *FOUR_CONVS), image())


@pytest.mark.parametrize("levels", [(), ("p2", "p4")])
def test_avg_halves_the_sum_of_both_paths(neck_config, levels):
    cfg = neck_config(BOTH, levels, "maxpool", "MODEL.FPN.FUSE_TYPE", "avg", *FOUR_CONVS)
    check_closed_form(cfg, image())


@pytest.mark.parametrize("stages", ["345", "234", "34", "5"])
@pytest.mark.parametrize("path", PATHS, ids=PATH_NAMES)
def test_a_pyramid_of_fewer_stages_equals_its_closed_form(neck_config, path, stages):
    names = [f"res{k}" for k in stages]
    for top_block in ("maxpool", "p6p7_c5"):
        opts = [*FOUR_CONVS, "MODEL.FPN.IN_FEATURES", names]
        check_closed_form(neck_config(path, (), top_block, *opts), image())


BOTTOM_UPS = {
    "R-18": (BOTH, R_18),
    "R-18 bottom_up": (BOTTOM_UP, R_18),
    "R-18 top_down": (TOP_DOWN, R_18),
    "R-50": (BOTH, ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64]),
    "ResNeXt-50-32x4d": (
        BOTTOM_UP,
        ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
        + ["MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4],
    ),
}


@pytest.mark.parametrize("path, opts", BOTTOM_UPS.values(), ids=BOTTOM_UPS)
def test_the_pyramid_is_independent_of_its_bottom_up_network(neck_config, path, opts):
    neck = check_closed_form(neck_config(path, (), "maxpool", *opts), image(n=1))
    if "MODEL.RESNETS.NUM_GROUPS" in opts:
        conv = neck.bottom_up.res2[0].conv2
        assert (conv.groups, conv.in_channels) == (32, 128)


def test_output_shape_and_shapes_of_the_levels_agree(neck_config):
    neck = build_neck(neck_config(BOTH, ("p2", "p5", "p6")))
    shapes = {name: (s.channels, s.stride) for name, s in neck.output_shape().items()}
    assert shapes == {"p2": (64, 4), "p5": (64, 32), "p6": (64, 64)}
    sizes = {name: tuple(p.shape) for name, p in neck(image(128, 192)).items()}
    assert sizes == {"p2": (2, 64, 32, 48), "p5": (2, 64, 4, 6), "p6": (2, 64, 2, 3)}


# --- nothing is built that cannot reach the loss


# path, levels, top block: laterals, outputs, last stage of the ResNet
BUILT = [
    (BOTH, "", "maxpool", "2345", "2345", 5),
    (BOTH, "2", "maxpool", "2345", "2", 5),
    (BOTH, "35", "maxpool", "345", "35", 5),
    (BOTH, "26", "maxpool", "2345", "25", 5),
    (BOTH, "5", "", "5", "5", 5),
    (BOTH, "67", "p6p7_c5", "", "", 5),
    (BOTH, "67", "p6p7_p5", "5", "5", 5),
    (BOTH, "367", "p6p7_c5", "345", "3", 5),
    (BOTTOM_UP, "", "maxpool", "2345", "2345", 5),
    (BOTTOM_UP, "2", "maxpool", "2", "2", 2),
    (BOTTOM_UP, "24", "maxpool", "24", "24", 4),
    (BOTTOM_UP, "26", "maxpool", "25", "25", 5),
    (BOTTOM_UP, "267", "p6p7_c5", "2", "2", 5),
    (BOTTOM_UP, "267", "p6p7_p5", "25", "25", 5),
    (TOP_DOWN, "", "maxpool", "5", "2345", 5),
    (TOP_DOWN, "2", "maxpool", "5", "2", 5),
    (TOP_DOWN, "35", "maxpool", "5", "35", 5),
    (TOP_DOWN, "67", "p6p7_c5", "", "", 5),
]


@pytest.mark.parametrize(
    "path, levels, top_block, laterals, outputs, last",
    BUILT,
    ids=[f"{PATH_NAMES[PATHS.index(row[0])]}-p{row[1] or 'all'}-{row[2]}" for row in BUILT],
)
def test_only_what_reaches_a_level_is_built(
    neck_config, path, levels, top_block, laterals, outputs, last
):
    neck = build_neck(neck_config(path, [f"p{k}" for k in levels], top_block))
    convs = {name for name, module in neck.named_modules() if isinstance(module, Conv2d)}
    assert {name for name in convs if name.startswith("fpn_")} == (
        {f"fpn_lateral{k}" for k in laterals} | {f"fpn_output{k}" for k in outputs}
    )
    stages = {name for name, _ in neck.bottom_up.named_children()}
    assert stages == {"stem"} | {f"res{k}" for k in range(2, last + 1)}
    has_top_block = any(k in levels for k in "67") or (not levels and top_block != "")
    assert (neck.top_block is not None) == has_top_block


def test_a_network_without_its_last_stages_is_built_as_if_it_had_never_had_them(neck_config):
    shorter = ["MODEL.FPN.IN_FEATURES", ["res2", "res3"]]
    states = []
    for stages in (["res2", "res3", "res4", "res5"], ["res2", "res3"]):
        opts = [*FOUR_CONVS, *shorter, "MODEL.RESNETS.OUT_FEATURES", stages]
        torch.manual_seed(0)
        neck = build_backbone(neck_config(BOTH, (), "", *opts))
        states.append((neck.state_dict(), torch.get_rng_state()))
        assert [name for name, _ in neck.bottom_up.named_children()] == ["res2", "res3"]
    (trimmed, after_trimmed), (whole, after_whole) = states
    assert list(trimmed) == list(whole)
    assert all(torch.equal(trimmed[name], whole[name]) for name in whole)
    assert torch.equal(after_trimmed, after_whole)


@pytest.mark.parametrize("opts", [[], ["MODEL.FPN.TOP_DOWN", False]], ids=["both", "bottom_up"])
def test_a_network_that_is_used_to_its_end_is_built_once(neck_config, monkeypatch, opts):
    built = []
    build = FourConvs.__init__
    monkeypatch.setattr(FourConvs, "__init__", lambda *args: built.append(1) or build(*args))
    build_backbone(neck_config(BOTH, (), "maxpool", *FOUR_CONVS, *opts))
    assert built == [1]


@BACKBONE_REGISTRY.register()
class KeepsItsStages(FourConvs):
    """A bottom-up network that outputs all its stages, whatever the config says."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        stages = ["res2", "res3", "res4", "res5"]
        super().__init__(changed(cfg, {"MODEL.RESNETS.OUT_FEATURES": stages}), input_shape)


def test_stages_that_cannot_be_left_out_stop_a_training_in_several_processes(
    neck_config, monkeypatch, caplog
):
    opts = ["MODEL.FPN.BOTTOM_UP", "KeepsItsStages", "MODEL.FPN.IN_FEATURES", ["res2", "res3"]]
    cfg = neck_config(BOTH, (), "", *opts)
    said = "does not use res4, res5 of MODEL.FPN.BOTTOM_UP KeepsItsStages"
    build_backbone(cfg)
    assert said in caplog.text
    caplog.clear()
    build_backbone(changed(cfg, {"MODEL.FPN.FREEZE": True}))  # no weight needs a gradient
    assert said not in caplog.text
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(UserError, match=f"{said}.*several processes"):
        build_backbone(cfg)


@pytest.mark.parametrize("top_block", TOP_BLOCKS, ids=lambda name: name or "none")
@pytest.mark.parametrize("path", PATHS, ids=PATH_NAMES)
def test_every_weight_reaches_every_choice_of_levels(neck_config, path, top_block):
    base = neck_config(path, (), top_block, *FOUR_CONVS)
    levels = ["p2", "p3", "p4", "p5"] + TOP_BLOCKS[top_block]
    for count in range(1, len(levels) + 1):
        for out_features in itertools.combinations(levels, count):
            if "p7" in levels and "p6" in out_features and "p7" not in out_features:
                continue  # refused, see below
            neck = build_neck(changed(base, {"MODEL.FPN.OUT_FEATURES": list(out_features)}))
            sum(level.sum() for level in neck(image(n=1)).values()).backward()
            without = [n for n, p in neck.named_parameters() if p.requires_grad and p.grad is None]
            assert not without, (out_features, without)


# --- what cannot work is refused in a sentence


REFUSED = {
    "FPN.BOTTOM_UP .*build_resnet_backbone": ["MODEL.FPN.BOTTOM_UP", "build_nothing"],
    "FPN.IN_FEATURES names res2, res3": ["MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"]],
    "neighbouring stages": ["MODEL.FPN.IN_FEATURES", ["res2", "res4"]],
    "from fine to coarse": ["MODEL.FPN.IN_FEATURES", ["res3", "res2"]],
    "a dilated stage": ["MODEL.RESNETS.RES5_DILATION", 2],
    "FPN.OUT_FEATURES names p7": ["MODEL.FPN.OUT_FEATURES", ["p2", "p7"]],
    "p6 without p7": ["MODEL.FPN.TOP_BLOCK", "p6p7_p5", "MODEL.FPN.OUT_FEATURES", ["p6"]],
    "FPN.OUT_FEATURES names p6": ["MODEL.FPN.TOP_BLOCK", "", "MODEL.FPN.OUT_FEATURES", ["p6"]],
}


@pytest.mark.parametrize("says, opts", REFUSED.items(), ids=REFUSED)
def test_a_neck_that_cannot_be_built_is_refused_by_its_key(neck_config, says, opts):
    with pytest.raises(UserError, match=says):
        build_backbone(neck_config(BOTH, (), "maxpool", *opts))


READERS = {
    "MODEL.RPN.IN_FEATURES names p3": ["MODEL.FPN.OUT_FEATURES", ["p2"]],
    "MODEL.ROI_HEADS.IN_FEATURES names p5": [
        *("MODEL.FPN.OUT_FEATURES", ["p2", "p3", "p4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[32]]),
        *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4"]),
    ],
    "MODEL.ROI_HEADS.IN_FEATURES p2, p4 are not neighbours": [
        *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p4"]),
    ],
    "MODEL.ROI_HEADS.IN_FEATURES p3, p5 are not neighbours": [
        *("MODEL.FPN.OUT_FEATURES", ["p3", "p5"], "MODEL.ROI_HEADS.IN_FEATURES", ["p3", "p5"]),
        *("MODEL.RPN.IN_FEATURES", ["p3", "p5"], "MODEL.ANCHOR_GENERATOR.SIZES", [[32]]),
    ],
    "MODEL.ROI_HEADS.IN_FEATURES p3, p2 are not neighbours": [
        *("MODEL.ROI_HEADS.IN_FEATURES", ["p3", "p2"]),
    ],
}


@pytest.mark.parametrize("says, opts", READERS.items(), ids=READERS)
def test_heads_that_do_not_find_their_levels_are_refused(row_config, says, opts):
    cfg = row_config(FASTER, *opts)
    with pytest.raises(UserError, match=says):
        build_backbone(cfg)


@pytest.mark.parametrize(
    "top_block, read, unread",
    [
        ("maxpool", "234", "p5"),  # P6 has no weights
        ("p6p7_c5", "2345", "p6, p7"),
        ("maxpool", "2346", ""),  # P6 is subsampled from P5, which is read through it
    ],
)
def test_levels_with_weights_that_nothing_reads_are_named(
    row_config, caplog, top_block, read, unread
):
    opts = ["MODEL.RPN.IN_FEATURES", [f"p{k}" for k in read], "MODEL.ANCHOR_GENERATOR.SIZES"]
    build_backbone(row_config(FPN_ROW, *opts, [[32]], "MODEL.FPN.TOP_BLOCK", top_block))
    said = f"nothing reads the pyramid's {unread}"
    assert said in caplog.text if unread else "nothing reads" not in caplog.text


# Leaves P5 unread.
TO_P4 = ["MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[32]]]


@META_ARCH_REGISTRY.register()
class ReadsMore(ProposalNetwork):
    """Somebody else's network, which may read more levels than its RPN."""


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPNOfMore(RPN):
    """Somebody else's RPN, which may read more levels than its key says."""


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegHeadOfMore(SemSegFPNHead):
    """Somebody else's segmentation, which may read more levels than its key says."""


PANOPTIC = ["MODEL.META_ARCHITECTURE", "PanopticFPN"]
PANOPTIC += ["MODEL.ROI_HEADS.IN_FEATURES", ["p2"], "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p3"]]


@pytest.mark.parametrize(
    "words, refused",
    [
        ([], True),
        (["MODEL.META_ARCHITECTURE", "ReadsMore"], False),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RPNOfMore"], False),
        (PANOPTIC, True),
        ([*PANOPTIC, "MODEL.SEM_SEG_HEAD.NAME", "SemSegHeadOfMore"], False),
    ],
)
def test_unread_levels_stop_several_processes_where_all_readers_are_known(
    row_config, monkeypatch, caplog, words, refused
):
    cfg = row_config(FPN_ROW, *TO_P4, *words)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    if refused:
        with pytest.raises(UserError, match=r"nothing reads the pyramid's p5.*several processes"):
            build_backbone(cfg)
    else:
        build_backbone(cfg)
        assert "no key names the pyramid's p5" in caplog.text


def test_what_somebody_elses_rpn_reads_by_its_key_is_read(row_config, caplog):
    opts = ["MODEL.PROPOSAL_GENERATOR.NAME", "RPNOfMore", "MODEL.ROI_HEADS.IN_FEATURES", ["p3"]]
    build_backbone(row_config(FASTER, *opts))
    assert "the pyramid's" not in caplog.text


def test_unread_levels_of_a_frozen_pyramid_need_no_gradient(row_config, monkeypatch, caplog):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    build_backbone(row_config(FPN_ROW, *TO_P4, *FOUR_CONVS, "MODEL.FPN.FREEZE", True))
    assert "nothing reads" not in caplog.text


class OwnKeys(nn.Module):
    """Somebody else's part, which reads keys of its own."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]):
        super().__init__()


class OwnLevels(StandardROIHeads):
    """Somebody else's heads, whose pooler reads levels of their own."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        return super()._init_box_head(cfg, input_shape)


FIVE = ["s1", "s2", "s3", "s4", "s5"]  # as many as MODEL.MASK_PROPOSAL.SIZES


@pytest.mark.parametrize(
    "row, registry, key, section, part, stages",
    [  # stages are no levels of the pyramid; anchors are for five levels, and not for one stage
        (FASTER, PROPOSAL_GENERATOR_REGISTRY, "PROPOSAL_GENERATOR", "RPN", OwnKeys, ["res4"]),
        (MASKS, PROPOSAL_GENERATOR_REGISTRY, "PROPOSAL_GENERATOR", "MASK_PROPOSAL", OwnKeys, FIVE),
        (FASTER, ROI_HEADS_REGISTRY, "ROI_HEADS", "ROI_HEADS", OwnKeys, ["res4"]),
        (FASTER, ROI_HEADS_REGISTRY, "ROI_HEADS", "ROI_HEADS", OwnLevels, ["res4"]),
    ],
)
def test_other_peoples_parts_may_leave_detectron2s_levels_untouched(
    row_config, monkeypatch, row, registry, key, section, part, stages
):
    monkeypatch.setitem(registry._obj_map, "Theirs", part)
    opts = [f"MODEL.{key}.NAME", "Theirs", f"MODEL.{section}.IN_FEATURES", stages, *FOUR_CONVS]
    levels = build_backbone(row_config(row, *opts))
    assert list(levels.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


@pytest.mark.parametrize("path", [BOTH, TOP_DOWN], ids=["both", "top_down"])
@pytest.mark.parametrize("size", [(60, 64), (64, 40), (33, 32), (31, 100)])
def test_a_size_whose_levels_would_not_double_is_refused(neck_config, path, size):
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]} pixels.*multiple of 32"):
        build_neck(neck_config(path))(image(*size))


@pytest.mark.parametrize("size", [(32, 64), (96, 32), (30, 62), (29, 61)])
def test_a_size_whose_levels_double_gives_detectron2s_levels(neck_config, size):
    ours, stock = (neck.eval() for neck in ours_and_stock(neck_config, []))
    a, b = ours(image(*size)), stock(image(*size))
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_without_the_top_down_path_any_size_is_taken(neck_config):
    levels = build_neck(neck_config(BOTTOM_UP))(image(37, 90))
    sizes = {name: tuple(p.shape[2:]) for name, p in levels.items()}  # sides are rounded up
    assert sizes == {"p2": (10, 23), "p3": (5, 12), "p4": (3, 6), "p5": (2, 3), "p6": (1, 2)}


def test_square_images_are_asked_for_as_detectron2_does(neck_config):
    bottom_up = build_neck(neck_config()).bottom_up
    neck = FeaturePyramid(bottom_up, ["res2"], 8, square_pad=64)
    assert neck.padding_constraints == {"square_size": 64}


def test_squares_that_a_bottom_up_network_wants_are_asked_for(neck_config, monkeypatch):
    monkeypatch.setattr(FourConvs, "padding_constraints", {"square_size": 64})
    neck = build_backbone(neck_config(BOTH, (), "", *FOUR_CONVS))
    assert neck.padding_constraints == {"square_size": 64}


def test_a_feature_without_a_stride_is_no_stage(neck_config):
    cfg = neck_config(BOTH, (), "", "MODEL.FPN.BOTTOM_UP", "WithGlobalFeature")
    assert list(build_backbone(cfg).output_shape()) == ["p2", "p3", "p4", "p5"]
