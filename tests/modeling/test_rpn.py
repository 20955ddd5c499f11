"""The RPN has a shared head or one per level, Table 1's anchors, and Detectron2's matches."""

import math
from unittest.mock import Mock

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.proposal_generator import build_proposal_generator, proposal_utils
from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from fpn_d2.modeling import LeanRPN, PerLevelRPNHead, build_level_rpn_head
from fpn_d2.modeling import rpn as rpn_module

FPN_ROW = "quick/RPN/rpn_R_18_FPN"
LEVELS = ["p2", "p3", "p4", "p5", "p6"]
SHAPES = [ShapeSpec(channels=64, stride=2**k) for k in range(2, 7)]


def feature_maps(n: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 64, 2 ** (6 - i), 2 ** (6 - i), generator=generator) for i in range(5)]


def test_one_head_is_shared_over_the_levels_by_default(row_config):
    cfg = row_config(FPN_ROW)
    head, stock = build_level_rpn_head(cfg, SHAPES), StandardRPNHead(cfg, SHAPES)
    shapes = {name: p.shape for name, p in stock.named_parameters()}
    assert {name: p.shape for name, p in head.named_parameters()} == shapes
    stock.load_state_dict(head.state_dict())
    for ours, theirs in zip(head(feature_maps()), stock(feature_maps()), strict=True):
        assert len(ours) == 5
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("conv_dims", [[-1], [32], [16, 16]])
def test_each_level_is_what_a_head_of_detectron2_gives_on_it_alone(row_config, conv_dims):
    cfg = row_config(FPN_ROW, "MODEL.RPN.SHARED_HEAD", False, "MODEL.RPN.CONV_DIMS", conv_dims)
    head, maps = build_level_rpn_head(cfg, SHAPES), feature_maps()
    assert isinstance(head, PerLevelRPNHead)
    assert list(head.heads) == LEVELS
    one = sum(p.numel() for p in StandardRPNHead(cfg, SHAPES).parameters())
    assert sum(p.numel() for p in head.parameters()) == 5 * one
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.1)  # the biases are 0 at first
    logits, deltas = head(maps)
    assert len(logits) == len(deltas) == 5
    for i, level in enumerate(LEVELS):
        alone = StandardRPNHead(in_channels=64, num_anchors=3, conv_dims=conv_dims)
        prefix = f"heads.{level}."
        state = {k: v for k, v in head.state_dict().items() if k.startswith(prefix)}
        alone.load_state_dict({k[len(prefix) :]: v for k, v in state.items()})
        (expected_logits,), (expected_deltas,) = alone([maps[i]])
        assert torch.equal(logits[i], expected_logits)
        assert torch.equal(deltas[i], expected_deltas)


def test_the_head_of_an_only_level_is_trained(row_config, make_input):
    """Those of several levels have rows of their own, see test_configs.py."""
    cfg = row_config("quick/RPN/rpn_R_18_P2", "MODEL.RPN.SHARED_HEAD", False)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model([make_input(64, 64, [[2, 3, 50, 60], [10, 10, 20, 22]])])
    sum(losses.values()).backward()
    assert list(model.proposal_generator.rpn_head.heads) == cfg.MODEL.RPN.IN_FEATURES
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    "row, opts, in_training",
    [
        ("RPN/rpn_R_18_FPN", [], False),
        ("RPN/rpn_R_18_FPN", ["VIS_PERIOD", 10], True),  # pictures show proposals
        ("Faster-RCNN/faster_rcnn_R_18_FPN", [], True),  # the RoI heads train on them
    ],
)
def test_an_rpn_makes_proposals_in_training_where_something_reads_them(
    row_config, make_input, row, opts, in_training
):
    shapes = dict(zip(LEVELS, SHAPES, strict=True))
    rpn = build_proposal_generator(row_config(f"quick/{row}", *opts), shapes)
    assert type(rpn) is LeanRPN
    inputs = [make_input(256, 256, [[2, 3, 50, 60]])]
    images = ImageList.from_tensors([inputs[0]["image"]])
    features = dict(zip(LEVELS, feature_maps(1), strict=True))
    with EventStorage():
        proposals, losses = rpn.train()(images, features, [inputs[0]["instances"]])
    assert [len(p) > 0 for p in proposals] == ([True] if in_training else [])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    proposals, losses = rpn.eval()(images, features)
    assert [len(p) > 0 for p in proposals] == [True]
    assert losses == {}


# --- proposals


def fpn_rpn(row_config, *opts):
    """The RPN of row FPN, which makes proposals in training, too."""
    shapes = dict(zip(LEVELS, SHAPES, strict=True))
    rpn = build_proposal_generator(row_config(FPN_ROW, *opts), shapes)
    rpn.proposals_in_training = True
    return rpn


def candidates(step, counts, images=2):
    """Anchors, deltas and logits of levels, ``counts`` boxes each; a box is ``step`` px from the
    one before."""
    generator = torch.Generator().manual_seed(0)
    corners = [step * torch.arange(count).float()[:, None] for count in counts]
    anchors = [Boxes(torch.cat([x, x, x + 20, x + 20], dim=1)) for x in corners]
    deltas = [torch.randn(images, count, 4, generator=generator) / 10 for count in counts]
    logits = [torch.randn(images, count, generator=generator) for count in counts]
    return anchors, logits, deltas, [(19_000, 18_500)] * images


def assert_the_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert torch.equal(one.objectness_logits, other.objectness_logits)
        assert one.image_size == other.image_size


@pytest.fixture
def nms(monkeypatch):
    """The NMS of Detectron2's proposals, which records its calls."""
    recorded = Mock(wraps=proposal_utils.batched_nms)
    monkeypatch.setattr(proposal_utils, "batched_nms", recorded)
    return recorded


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(
    ("step", "counts", "rounds"),
    [
        (9, (4000, 4000, 1000), ["first"]),  # most boxes stay
        (0.5, (4000, 4000, 1000), ["first", "some"]),  # fewer than are asked for, with the best
        (0.01, (4000, 4000, 1000), ["first", "rest"]),  # hardly any
        (0.01, (1700, 1700, 100), ["first", "all"]),  # hardly any, and few others
        (9, (900, 900), ["all"]),  # all are few
    ],
)
def test_less_nms_leaves_detectron2s_proposals(row_config, nms, step, counts, rounds, is_training):
    rpn = fpn_rpn(row_config, "MODEL.RPN.NMS_THRESH", 0.5).train(is_training)
    rpn.pre_nms_topk, rpn.post_nms_topk = {True: 4000, False: 3900}, {True: 990, False: 1050}
    count, most = rpn.post_nms_topk[is_training], rpn.pre_nms_topk[is_training]
    total = sum(min(most, of_level) for of_level in counts)
    arguments = candidates(step, counts)
    expected = RPN.predict_proposals(rpn, *arguments)
    nms.reset_mock()
    assert_the_same(rpn.predict_proposals(*arguments), expected)
    sizes = [len(call.args[0]) for call in nms.call_args_list]
    of_image = [sizes[i :: len(rounds)] for i in range(len(rounds))]  # of each round
    for name, of_round in zip(rounds, of_image, strict=True):
        assert len(of_round) == 2
        first = 3 * max(count, 1001)
        least, largest = {
            "first": (first, first),
            "some": (first + count // 2, first + count),
            "rest": (total - first, total - first + count // 2),
            "all": (total, total),
        }[name]
        assert all(least <= size <= largest for size in of_round)


def test_nms_of_some_is_by_level_as_that_of_all(row_config, nms):
    """Few boxes would be shifted apart by level, which rounds their IoU, here at the threshold."""
    rpn = fpn_rpn(row_config, "MODEL.RPN.NMS_THRESH", 0.5).eval()
    rpn.pre_nms_topk, rpn.post_nms_topk = {False: 2000}, {False: 1000}
    generator = torch.Generator().manual_seed(0)
    anchors, deltas = [], [torch.zeros(1, 2000, 4)] * 3
    for _ in range(3):
        corner = torch.rand(1000, 2, generator=generator) * 600
        width = torch.rand(1000, 1, generator=generator) * 3 + 1
        box = torch.cat([corner, corner + torch.cat([3 * width, width], dim=1)], dim=1)
        box[torch.rand(1000, generator=generator) < 0.7] += 5000  # outside of the image
        moved = box + torch.cat([width, 0 * width, width, 0 * width], dim=1)  # an IoU of 1/2
        anchors.append(Boxes(torch.cat([box, moved])))
    logits = [torch.randn(1, 2000, generator=generator) for _ in range(3)]
    arguments = anchors, logits, deltas, [(700, 700)]
    assert_the_same(rpn.predict_proposals(*arguments), RPN.predict_proposals(rpn, *arguments))
    assert all(len(call.args[0]) > 1000 for call in nms.call_args_list)


def test_of_equal_scores_the_same_boxes_stay(row_config):
    rpn = fpn_rpn(row_config)
    rpn.eval().pre_nms_topk, rpn.post_nms_topk = {False: 3000}, {False: 2000}
    anchors, logits, deltas, sizes = candidates(0.05, (3000, 2900, 600))
    arguments = anchors, [level.round() for level in logits], deltas, sizes
    found, expected = rpn.predict_proposals(*arguments), RPN.predict_proposals(rpn, *arguments)
    for one, other in zip(found, expected, strict=True):  # Detectron2's order is not stable
        assert len(one) < 2000
        boxes = [{*map(tuple, x.proposal_boxes.tensor.tolist())} for x in (one, other)]
        assert boxes[0] == boxes[1]
        assert torch.equal(one.objectness_logits, other.objectness_logits)


def test_boxes_that_are_not_finite_are_what_they_are_in_detectron2(row_config):
    rpn = fpn_rpn(row_config)
    rpn.pre_nms_topk, rpn.post_nms_topk = {True: 1500, False: 1500}, {True: 100, False: 100}
    anchors, logits, deltas, sizes = candidates(9, (1500, 1500, 1500))
    worst = logits[1][1].argmin()  # far from the boxes that NMS is given first
    deltas[1][1, worst] = math.nan
    rpn.train()
    with pytest.raises(FloatingPointError, match="Training has diverged"):
        rpn.predict_proposals(anchors, logits, deltas, sizes)
    rpn.eval()
    logits[2][0, 5] = math.inf
    found = rpn.predict_proposals(anchors, logits, deltas, sizes)
    assert_the_same(found, RPN.predict_proposals(rpn, anchors, logits, deltas, sizes))


# --- Table 1's anchors, on an image of 800 x 1000


COUNTS = {"C4": 47_250, "C5": 12_000, "FPN": 199_974, "P2": 750_000}
COUNTS.update(bottom_up=199_974, top_down=199_974)
ROWS = [(f"RPN/rpn_R_50_{row}", count) for row, count in COUNTS.items()]
ROWS += [(f"quick/RPN/rpn_R_18_{row}", count) for row, count in COUNTS.items()]
ROWS += [(f"Faster-RCNN/faster_rcnn_R_50_{row}", COUNTS[row]) for row in ("C4", "C5", "FPN")]


@pytest.mark.parametrize("row, count", ROWS)
def test_table_1_counts_these_anchors_of_the_papers_areas_and_ratios(row_config, row, count):
    cfg = row_config(row)
    with torch.device("meta"):  # the strides are the model's own; no weights are needed for them
        shapes = build_backbone(cfg).output_shape()
    shapes = [shapes[name] for name in cfg.MODEL.RPN.IN_FEATURES]
    maps = [
        torch.zeros(1, 1, math.ceil(800 / s.stride), math.ceil(1000 / s.stride)) for s in shapes
    ]
    anchors = build_anchor_generator(cfg, shapes)(maps)
    assert sum(len(boxes) for boxes in anchors) == count
    sides = [[32], [64], [128], [256], [512]] if len(shapes) == 5 else [[32, 64, 128, 256, 512]]
    for boxes, sizes in zip(anchors, sides, strict=True):
        first = boxes.tensor[: 3 * len(sizes)]  # those of one cell
        width, height = (first[:, 2:] - first[:, :2]).unbind(dim=1)
        areas = torch.tensor([float(side**2) for side in sizes for _ in range(3)])
        torch.testing.assert_close(width * height, areas)  # Sec. 4.1: areas of 32^2 to 512^2
        ratios = torch.tensor([0.5, 1.0, 2.0]).repeat(len(sizes))
        torch.testing.assert_close(height / width, ratios)


# --- matching in pieces


@pytest.mark.parametrize("at_once", [1, 3, 7])
@pytest.mark.parametrize("boundary", [-1, 0])
def test_matching_in_pieces_is_detectron2s(row_config, monkeypatch, at_once, boundary):
    cfg = row_config("quick/RPN/rpn_R_18_P2", "MODEL.RPN.BOUNDARY_THRESH", boundary)
    rpn = build_proposal_generator(cfg, {"p2": SHAPES[0]})
    anchors = rpn.anchor_generator([torch.zeros(1, 1, 20, 30)])
    generator = torch.Generator().manual_seed(at_once)
    images = []
    for count in (10, 0, 2):
        size = 4 + 70 * torch.rand(count, 2, generator=generator)
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 50.0])
        boxes = Boxes(torch.cat([corner, corner + size], dim=1))
        images.append(Instances((80, 120), gt_boxes=boxes))
    torch.manual_seed(3)
    expected = RPN.label_and_sample_anchors(rpn, anchors, images)
    monkeypatch.setattr(rpn_module, "_MAX_PAIRS", at_once * len(anchors[0]))
    torch.manual_seed(3)
    found = rpn.label_and_sample_anchors(anchors, images)
    for n in range(3):
        assert torch.equal(found[0][n], expected[0][n])  # the same samples, too
        positive = expected[0][n] == 1
        assert positive.any() == (n != 1)
        assert torch.equal(found[1][n][positive], expected[1][n][positive])
